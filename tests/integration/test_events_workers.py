"""Events of a real prefork worker: on its command line, on its port, on its stdout."""

from __future__ import annotations

import json
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import servers
from typer.testing import CliRunner
from worker_processes import Scene, eventually, sqlite_scene

from cloudq import CloudQ
from cloudq.backends.open import open_backend
from cloudq.brokers.base import QueueSpec
from cloudq.brokers.open import open_broker
from cloudq.cli.main import cli

WAIT = 45.0


@pytest.fixture(params=["sqlite", pytest.param("aws", marks=pytest.mark.slow)])
def scene(request: pytest.FixtureRequest, tmp_path: Path, unique: str) -> Iterator[Scene]:
    if request.param == "sqlite":
        with sqlite_scene(tmp_path) as made:
            yield made
        return
    url = request.getfixturevalue("ministack_url")
    made = Scene(tmp_path, f"sqs://?endpoint_url={url}", f"dynamodb://{unique}?endpoint_url={url}", unique)
    queue, table = open_broker(made.broker), open_backend(made.backend)
    queue.create_queue(QueueSpec(made.queue, 30.0))  # type: ignore[attr-defined]
    table.create_table()  # type: ignore[attr-defined]
    queue.close()
    table.close()
    yield made


def cloudq(scene: Scene, *words: str) -> Any:
    """A command, in this process."""
    return CliRunner().invoke(cli, [*words, "--result-backend", scene.backend])


def test_children_s_events_reach_every_sink(scene: Scene) -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    port = servers.free_port()
    with (
        CloudQ("client", broker=scene.broker, backend=scene.backend, task_default_queue=scene.queue) as app,
        scene.worker(
            "-P", "prefork", "-c", "2", "-E", "--metrics-port", str(port), "--events-log", "json"
        ) as worker,
    ):
        results = [app.send_task("worker_app.add", (n, n)) for n in range(5)]
        assert [each.get(timeout=WAIT) for each in results] == [0, 2, 4, 6, 8]
        dying = app.send_task("worker_app.boom")
        dying.get(timeout=WAIT, propagate=False)

        shown = scene.cloudq(
            "events", "--back", "60", "-n", "18", "--timeout", "20", "--type", "task-*", "--json"
        )
        events = [json.loads(line) for line in shown.stdout.splitlines()]
        for result in results:
            types = [each["type"] for each in events if each["uuid"] == result.id]
            assert types == ["task-received", "task-started", "task-succeeded"]
        told = cloudq(scene, "events", "--back", "60", "-n", "1", "--type", "task-failed").stdout
        assert f"worker_app.boom[{dying.id}]" in told
        assert "exception=ValueError('no good')" in told
        assert cloudq(scene, "events", "--type", "task-dance").exit_code == 2

        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        samples = {
            (sample.labels.get("type"), sample.labels.get("task")): sample.value
            for family in parser.text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "cloudq_events_total"
        }
        assert samples["task-succeeded", "worker_app.add"] == 5
        assert samples["task-failed", "worker_app.boom"] == 1
        signals = {
            sample.name: sample.value
            for family in parser.text_string_to_metric_families(text)
            for sample in family.samples
            if sample.labels.get("queue") == scene.queue
        }
        assert signals["cloudq_queue_workers"] == 1
        assert {"cloudq_queue_backlog_per_worker", "cloudq_queue_oldest_seconds"} <= set(signals)

        def logged() -> bool:
            lines = [json.loads(line) for line in worker.text.splitlines() if line.startswith("{")]
            return any(each["type"] == "task-failed" and each["uuid"] == dying.id for each in lines)

        eventually("its log says so too", logged)
        assert worker.stop() == 0, worker.text


def test_history_survives_the_worker_and_names_the_dead(scene: Scene) -> None:
    """What is kept: a success, a failure, a task whose child was killed; then the worker stops."""
    with (
        CloudQ("client", broker=scene.broker, backend=scene.backend, task_default_queue=scene.queue) as app,
        scene.worker(
            "-P", "prefork", "-c", "1", "-n", "w1",
            CLOUDQ_MONITORING="history", CLOUDQ_TASK_REJECT_ON_WORKER_LOST="false",
        ) as worker,
    ):  # fmt: skip
        good = app.send_task("worker_app.add", (1, 2))
        bad = app.send_task("worker_app.boom", ("not today",))
        dead = app.send_task("worker_app.die", (signal.SIGKILL.name,))
        for each in (good, bad, dead):
            each.get(timeout=WAIT, propagate=False)
        assert worker.stop() == 0, worker.text

        entries = {each.id: each for each in app.history.query().entries}
        assert (entries[good.id].state, entries[good.id].result) == ("SUCCESS", "3")
        assert (entries[bad.id].state, entries[bad.id].args) == ("FAILURE", "['not today']")
        assert "raise ValueError(text)" in (entries[bad.id].traceback or "")
        assert "WorkerLostError" in (entries[dead.id].exception or "")
        assert {each.worker for each in entries.values()} == {"w1"}
        assert [each.id for each in app.history.query(state="FAILURE", name="worker_app.boom").entries] == [
            bad.id
        ]
        assert app.history.task(good.id)[0].queue == scene.queue


def test_a_killed_worker_costs_its_last_moments_of_history_and_no_task_is_unknown(scene: Scene) -> None:
    with (
        CloudQ("client", broker=scene.broker, backend=scene.backend, task_default_queue=scene.queue) as app,
        scene.worker("-P", "threads", "-n", "w1", CLOUDQ_MONITORING="history") as worker,
    ):
        early = app.send_task("worker_app.add", (1, 2))
        eventually(
            "it is in history", lambda: [each.id for each in app.history.query().entries] == [early.id]
        )
        late = app.send_task("worker_app.add", (2, 3))
        assert late.get(timeout=WAIT) == 5
        worker.kill()
        assert early.id in [each.id for each in app.history.query().entries]  # what was written stays
        told = [app.history.task(each.id)[0] for each in (early, late)]
        assert [each.state for each in told] == ["SUCCESS", "SUCCESS"]
        assert told[0].result == "3"
