"""Batch tasks with real workers, on every pool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from worker_processes import Scene, eventually, sqlite_scene

from cloudq import CloudQ
from cloudq.brokers.base import QueueSpec
from cloudq.testing.workers import running_worker

WAIT = 45.0


def client(scene: Scene) -> CloudQ:
    return CloudQ("client", broker=scene.broker, backend=scene.backend, task_default_queue=scene.queue)


@pytest.mark.parametrize(
    "pool",
    ["prefork", *(pytest.param(each, marks=pytest.mark.slow) for each in ("threads", "asyncio", "solo"))],
)
def test_calls_are_handled_in_batches_and_end_one_by_one(pool: str, tmp_path: Path) -> None:
    with sqlite_scene(tmp_path) as scene, client(scene) as app:
        # there before the worker is: so the batches are full, though it may hold but two messages
        calls = [
            app.send_task("worker_app.gather", (n,), {"how": "fail" if n == 3 else ""}) for n in range(11)
        ]
        plain = app.send_task("worker_app.add", (1, 2))
        with scene.worker("-P", pool, "-c", "1") as worker:
            for n, each in enumerate(calls):
                if n == 3:
                    with pytest.raises(ValueError, match="no good"):
                        each.get(timeout=WAIT)
                else:
                    assert each.get(timeout=WAIT) == n
            assert plain.get(timeout=WAIT) == 3
            assert worker.stop() == 0
        assert len(scene.runs("of-5")) >= 5  # a full one at least, however slow the machine
        assert app.broker.depth(scene.queue).total == 0


def test_a_child_that_dies_in_a_batch_costs_a_redelivery_of_each(tmp_path: Path) -> None:
    with sqlite_scene(tmp_path) as scene, client(scene) as app:
        calls = [app.send_task("worker_app.gather", (n,), {"how": "die" if n == 2 else ""}) for n in range(5)]
        with scene.worker("-P", "prefork", "-c", "1", CLOUDQ_WORKER_LOST_WAIT="0.1"):
            assert [each.get(timeout=WAIT) for each in calls] == list(range(5))


def test_a_stop_gives_back_what_was_collected_and_ends_what_runs(tmp_path: Path) -> None:
    with sqlite_scene(tmp_path) as scene, client(scene) as app:
        with scene.worker("-P", "threads", "-c", "2") as worker:
            waiting = [app.send_task("worker_app.patient", (n,)) for n in range(3)]
            running = app.send_task("worker_app.gather", (1,), {"how": "slow"})
            eventually("one runs", lambda: scene.runs("of-1"))
            assert worker.stop() == 0
        assert running.get(timeout=1) == 1
        assert [each.state for each in waiting] == ["PENDING"] * 3
        depth = app.broker.depth(scene.queue)
        assert (depth.visible, depth.in_flight) == (3, 0)


def test_on_sqs(ministack_url: str, unique: str) -> None:
    app = CloudQ(
        "batch", broker=f"sqs://?endpoint_url={ministack_url}", backend="memory://", task_default_queue=unique
    )
    app.broker.create_queue(QueueSpec(unique, 5.0))  # type: ignore[attr-defined]
    sizes: list[int] = []

    @app.task(name="store", batch=20, batch_wait=2)
    def store(requests: list[Any]) -> list[int]:
        sizes.append(len(requests))
        return [each.args[0] for each in requests]

    calls = app.send_many([store.s(n) for n in range(50)])
    with running_worker(app, [unique], concurrency=1):
        assert [each.get(timeout=WAIT) for each in calls] == list(range(50))
    assert max(sizes) == 20
    app.close()
