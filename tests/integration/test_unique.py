"""Unique tasks with real workers: on SQLite over processes, and on SQS and DynamoDB."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import worker_app
from worker_processes import eventually, sqlite_scene

from cloudq import CloudQ
from cloudq.brokers.base import QueueSpec
from cloudq.testing.workers import running_worker

WAIT = 45.0


@pytest.mark.parametrize("pool", ["prefork", pytest.param("threads", marks=pytest.mark.slow)])
def test_callers_at_once_send_one_and_all_get_its_result(pool: str, tmp_path: Path) -> None:
    with sqlite_scene(tmp_path) as scene, worker_app.app.using(broker=scene.broker, backend=scene.backend):
        with scene.worker("-P", pool, "-c", "2"), ThreadPoolExecutor(6) as callers:
            results = list(callers.map(lambda _: worker_app.sync.delay("a", 1.0), range(6)))
            assert len({each.id for each in results}) == 1
            assert {each.get(timeout=WAIT) for each in results} == {f"a by {results[0].id}"}
            assert worker_app.sync.delay("a").get(timeout=WAIT) != f"a by {results[0].id}"
        assert len(scene.runs("start")) == 2


def test_a_killed_child_keeps_the_lock_and_its_message_comes_again(tmp_path: Path) -> None:
    with (
        sqlite_scene(tmp_path) as scene,
        worker_app.app.using(broker=scene.broker, backend=scene.backend),
        scene.worker("-P", "prefork", "-c", "1"),
    ):
        first = worker_app.sync.delay("a", 2.0)
        eventually("it runs", lambda: scene.runs("start"))
        os.kill(scene.runs("start")[0].pid, signal.SIGKILL)
        assert worker_app.sync.delay("a").id == first.id
        assert first.get(timeout=WAIT) == f"a by {first.id}"
        assert worker_app.sync.delay("a").id != first.id


def test_on_sqs_and_dynamodb(ministack_url: str, unique: str) -> None:
    app = CloudQ(
        "unique",
        broker=f"sqs://?endpoint_url={ministack_url}",
        backend=f"dynamodb://{unique}?endpoint_url={ministack_url}",
        task_default_queue=unique,
    )
    app.broker.create_queue(QueueSpec(unique, 5.0))  # type: ignore[attr-defined]
    app.backend.create_table()  # type: ignore[union-attr]

    @app.task(name="sync", unique="until_finish")
    def sync(shop: str) -> str:
        return shop

    first, again, other = sync.delay("a"), sync.delay("a"), sync.delay("b")
    assert (first.id == again.id, first.id == other.id) == (True, False)
    with running_worker(app, [unique]):
        assert [each.get(timeout=WAIT) for each in (first, again, other)] == ["a", "a", "b"]
        eventually("the lock is free", lambda: sync.delay("a").id != first.id)
    app.close()
