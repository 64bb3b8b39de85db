"""Broker or store away for a while: work goes on when they are back, and nothing is lost."""

from __future__ import annotations

import re
import signal
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from broken_line import Line, line_to
from worker_processes import Scene, eventually, sqlite_scene

from cloudq import CloudQ
from cloudq.backends.open import open_backend
from cloudq.brokers.base import QueueSpec
from cloudq.brokers.open import open_broker

WAIT = 25.0


@dataclass
class Lines:
    """A worker's two lines, and an app whose own lines are never cut."""

    scene: Scene
    broker: Line
    store: Line
    app: CloudQ

    def send(self, name: str, *args: Any) -> Any:
        return self.app.send_task(f"worker_app.{name}", args)


@pytest.fixture
def lines(tmp_path: Path, ministack_url: str, unique: str) -> Iterator[Lines]:
    direct = (f"sqs://?endpoint_url={ministack_url}", f"dynamodb://{unique}?endpoint_url={ministack_url}")
    queue, table = open_broker(direct[0]), open_backend(direct[1])
    queue.create_queue(QueueSpec(unique, 30.0, max_receive_count=10))  # type: ignore[attr-defined]
    table.create_table()  # type: ignore[attr-defined]
    queue.close()
    table.close()
    with (
        line_to(ministack_url) as to_broker,
        line_to(ministack_url) as to_store,
        CloudQ("client", broker=direct[0], backend=direct[1], task_default_queue=unique) as app,
    ):
        scene = Scene(
            tmp_path,
            f"sqs://?endpoint_url={to_broker.url}",
            f"dynamodb://{unique}?endpoint_url={to_store.url}",
            unique,
        )
        yield Lines(scene, to_broker, to_store, app)


@pytest.mark.parametrize("pool", ["threads", pytest.param("prefork", marks=pytest.mark.slow)])
def test_a_finished_task_waits_for_the_store_and_runs_once(lines: Lines, pool: str) -> None:
    with lines.scene.worker("-P", pool, "-c", "2") as worker:
        result = lines.send("work", 5, 0.8)
        eventually("it runs", lambda: lines.scene.runs("start", result.id))
        lines.store.cut()
        eventually("it has ended", lambda: lines.scene.runs("end", result.id))
        eventually("the store was missed", lambda: lines.store.refused > 0)
        time.sleep(0.5)
        assert result.state == "PENDING"
        assert lines.app.broker.depth(lines.scene.queue).total == 1, "not deleted before its result is stored"
        lines.store.mend()
        assert result.get(timeout=WAIT) == 5
        assert worker.stop() == 0, worker.text[-3000:]
    assert len(lines.scene.runs("start", result.id)) == 1
    assert lines.app.broker.depth(lines.scene.queue).total == 0


@pytest.mark.parametrize("pool", ["threads", pytest.param("prefork", marks=pytest.mark.slow)])
def test_work_goes_on_when_the_broker_is_back(lines: Lines, pool: str) -> None:
    # short: a long poll that was cut off may still be given messages, which then come back after this
    with lines.scene.worker("-P", pool, "-c", "2", "--visibility-timeout", "3") as worker:
        before = lines.send("work", 1, 0.5)
        eventually("it runs", lambda: lines.scene.runs("start", before.id))
        lines.broker.cut()
        assert before.get(timeout=WAIT) == 1
        meanwhile = [lines.send("work", n, 0.0) for n in range(20)]
        eventually("the broker was missed", lambda: lines.broker.refused > 2)
        assert lines.scene.runs("start", meanwhile[0].id) == []
        lines.broker.mend()
        assert [each.get(timeout=WAIT) for each in meanwhile] == list(range(20))
        assert worker.stop() == 0, worker.text[-3000:]
    assert sorted(run.task_id for run in lines.scene.runs("start")) == sorted(
        each.id for each in [before, *meanwhile]
    )
    assert lines.app.broker.depth(lines.scene.queue).total == 0


@pytest.mark.slow
def test_nothing_is_lost_when_both_are_away_longer_than_the_leases_last(lines: Lines) -> None:
    with lines.scene.worker("-P", "threads", "-c", "4", "--visibility-timeout", "1") as worker:
        results = [lines.send("work", n, 0.1) for n in range(60)]
        eventually("some have run", lambda: len(lines.scene.runs("end")) > 10)
        lines.broker.cut()
        lines.store.cut()
        time.sleep(2.5)
        lines.broker.mend()
        lines.store.mend()
        assert [each.get(timeout=WAIT) for each in results] == list(range(60))
        eventually("all are deleted", lambda: lines.app.broker.depth(lines.scene.queue).total == 0)
        assert worker.stop() == 0, worker.text[-3000:]
    dead = lines.app.broker.describe(lines.scene.queue).dead_letter_queue
    assert dead is not None
    assert lines.app.broker.depth(dead).total == 0


@pytest.mark.slow
def test_a_worker_without_its_services_still_stops_in_time(lines: Lines) -> None:
    with lines.scene.worker("-P", "threads", "-c", "2") as worker:
        result = lines.send("work", 1, 0.3)
        eventually("it runs", lambda: lines.scene.runs("start", result.id))
        lines.broker.cut()
        lines.store.cut()
        eventually("it has ended", lambda: lines.scene.runs("end", result.id))
        worker.signal(signal.SIGTERM)
        eventually("it has understood", lambda: "stopping" in worker.text)
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 3  # not after the five minutes of worker_settle_timeout
    lines.broker.mend()
    lines.store.mend()
    assert lines.app.broker.depth(lines.scene.queue).total == 1, "it is still there, for the next worker"


@pytest.mark.slow
def test_a_table_that_vanished_is_named_and_work_goes_on_once_it_is_there(lines: Lines) -> None:
    table: Any = lines.app.backend
    with lines.scene.worker("-P", "threads", "-c", "2") as worker:
        assert lines.send("work", 0).get(timeout=WAIT) == 0
        table.delete_table()
        result = lines.send("work", 1)
        named = f"ERROR.*storing the result of worker_app.work.{result.id}.*{lines.scene.queue}.*create it"
        eventually("it is named", lambda: re.search(named, worker.text), timeout=20.0)
        table.create_table()
        assert result.get(timeout=WAIT) == 1
        assert worker.stop() == 0, worker.text[-3000:]
    assert len(lines.scene.runs("start", result.id)) == 1


def test_a_locked_file_delays_work_and_loses_nothing(tmp_path: Path) -> None:
    with (
        sqlite_scene(tmp_path) as scene,
        scene.worker("-P", "threads", "-c", "4") as worker,
        CloudQ("client", broker=scene.broker, backend=scene.backend) as app,
    ):
        results = [app.send_task("worker_app.work", (n, 0.02)) for n in range(60)]
        eventually("some have run", lambda: len(scene.runs("end")) > 5)
        other = sqlite3.connect(tmp_path / "proof.db", timeout=10, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        time.sleep(1.5)
        other.execute("ROLLBACK")
        other.close()
        assert [each.get(timeout=WAIT) for each in results] == list(range(60))
        assert worker.stop() == 0, worker.text[-3000:]
        assert app.broker.depth(scene.queue).total == 0
    assert len(scene.runs("start")) == 60
