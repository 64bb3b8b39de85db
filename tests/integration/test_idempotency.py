"""Idempotent tasks with real workers, and with one that is killed while it holds a claim."""

from __future__ import annotations

from pathlib import Path

import pytest
from worker_processes import Scene, eventually, sqlite_scene

from cloudq import CloudQ
from cloudq.brokers.base import QueueSpec
from cloudq.brokers.open import open_broker
from cloudq.testing.workers import running_worker

WAIT = 45.0


def client(scene: Scene) -> CloudQ:
    return CloudQ("client", broker=scene.broker, backend=scene.backend, task_default_queue=scene.queue)


@pytest.mark.parametrize(
    "pool", ["prefork", *(pytest.param(each, marks=pytest.mark.slow) for each in ("threads", "asyncio"))]
)
def test_calls_with_one_key_are_one_run_over_all_workers(pool: str, tmp_path: Path) -> None:
    with (
        sqlite_scene(tmp_path) as scene,
        client(scene) as app,
        scene.worker("-P", pool, "-c", "2"),
        scene.worker("-P", "threads", "-c", "4"),
    ):
        results = [app.send_task("worker_app.pay", (7, 0.3)) for _ in range(6)]
        found = {each.get(timeout=WAIT) for each in results}
        assert len(found) == 1
        assert len(scene.runs("start")) == 1


def test_the_claim_of_a_killed_worker_is_taken_over(tmp_path: Path) -> None:
    with sqlite_scene(tmp_path, visibility_timeout=2) as scene, client(scene) as app:
        with scene.worker("-P", "threads", "-c", "1", CLOUDQ_TASK_LEASE_TIME="2") as worker:
            first = app.send_task("worker_app.pay", (7, 60.0))
            eventually("it runs", lambda: scene.runs("start", first.id))
            worker.kill()
        other = app.send_task("worker_app.pay", (7, 0.0))
        with scene.worker("-P", "threads", "-c", "1", CLOUDQ_TASK_LEASE_TIME="2"):
            # Whichever of the two comes first once the dead worker's claim has ended does the work.
            paid = other.get(timeout=WAIT)
            assert paid in (f"paid by {first.id}", f"paid by {other.id}")
            assert first.get(timeout=WAIT) == paid
        assert len(scene.runs("end")) == 1


def test_on_sqs_and_dynamodb(ministack_url: str, unique: str) -> None:
    app = CloudQ(
        "once",
        broker=f"sqs://?endpoint_url={ministack_url}",
        backend=f"dynamodb://{unique}?endpoint_url={ministack_url}",
        task_default_queue=unique,
    )
    open_broker(app.conf.broker_url or "").create_queue(QueueSpec(unique, 5.0))  # type: ignore[attr-defined]
    app.backend.create_table()  # type: ignore[union-attr]
    ran: list[str] = []

    @app.task(name="pay", bind=True, idempotency_key=lambda order: f"order {order['number']}")
    def pay(self: object, order: dict[str, int]) -> int:
        ran.append("run")
        return len(ran)

    calls = [pay.delay({"number": 1, "try": n}) for n in range(5)]
    with running_worker(app, [unique]):
        assert [each.get(timeout=WAIT) for each in calls] == [1] * 5
    app.close()
