"""Limits with real workers: on every kind of pool, over several workers, on SQS."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from worker_processes import Run, Scene, eventually, sqlite_scene

from cloudq import CloudQ
from cloudq.brokers.base import QueueSpec
from cloudq.brokers.open import open_broker
from cloudq.testing.workers import running_worker

WAIT = 45.0


def most_at_a_time(runs: Iterable[Run]) -> int:
    """The most runs that overlapped, by the notes of their starts and ends."""
    running = most = 0
    for run in sorted(runs, key=lambda each: each.at):
        running += 1 if run.what == "start" else -1
        most = max(most, running)
    return most


@pytest.fixture(
    params=[
        "prefork",
        pytest.param("threads", marks=pytest.mark.slow),
        pytest.param("asyncio", marks=pytest.mark.slow),
    ]
)
def pool(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def client(scene: Scene) -> CloudQ:
    return CloudQ("client", broker=scene.broker, backend=scene.backend, task_default_queue=scene.queue)


def test_a_rate_limit_holds_for_a_worker_whatever_it_consists_of(pool: str, tmp_path: Path) -> None:
    with sqlite_scene(tmp_path) as scene, client(scene) as app, scene.worker("-P", pool, "-c", "3") as worker:
        results = [app.send_task("worker_app.paced") for _ in range(12)]
        assert [each.get(timeout=WAIT) for each in results] == [1] * 12
        at = sorted(run.at for run in scene.runs("start"))
        assert at[-1] - at[0] > (12 - 4) / 4 - 0.5  # a burst of four, then four a second
        assert worker.stop() == 0


def test_max_concurrency_holds_over_all_workers(pool: str, tmp_path: Path) -> None:
    with (
        sqlite_scene(tmp_path) as scene,
        client(scene) as app,
        scene.worker("-P", pool, "-c", "2"),
        scene.worker("-P", "threads", "-c", "4"),
    ):
        results = [app.send_task("worker_app.narrow", (0.2,)) for _ in range(8)]
        assert [each.get(timeout=WAIT) for each in results] == [1] * 8
        assert most_at_a_time(scene.runs()) == 2


def test_a_place_of_a_killed_child_is_free_at_once(tmp_path: Path) -> None:
    with (
        sqlite_scene(tmp_path) as scene,
        client(scene) as app,
        scene.worker("-P", "prefork", "-c", "2", CLOUDQ_TASK_LEASE_TIME="600"),
    ):
        stuck = [app.send_task("worker_app.narrow", (60.0,)) for _ in range(2)]
        eventually("both places are taken", lambda: len(scene.runs("start")) == 2)
        for child in {run.pid for run in scene.runs("start")}:
            os.kill(child, signal.SIGKILL)
        eventually("they run again", lambda: len(scene.runs("start")) >= 4)
        assert {run.task_id for run in scene.runs("start")} == {each.id for each in stuck}


class Place:
    """An app on SQS whose queue buries what is received twice, and what ran there."""

    def __init__(self, url: str, queue: str) -> None:
        self.app = CloudQ(
            "limits", broker=f"sqs://?endpoint_url={url}", backend="memory://", task_default_queue=queue
        )
        self.ran: list[tuple[Any, int]] = []
        self.mutex = threading.Lock()
        admin: Any = open_broker(f"sqs://?endpoint_url={url}")
        admin.create_queue(QueueSpec(queue, 5.0, max_receive_count=1))
        admin.close()

    def note(self, request: Any) -> None:
        with self.mutex:
            self.ran.append((request.args[0], request.receive_count))


def test_on_sqs_a_limited_task_burns_no_receipt(ministack_url: str, unique: str) -> None:
    place = Place(ministack_url, unique)

    @place.app.task(bind=True, name="send", rate_limit="2/s")
    def send(self: Any, number: int) -> None:
        place.note(self.request)

    results = [send.apply_async((n,), group_id=f"tenant-{n % 2}") for n in range(7)]
    with running_worker(place.app, [unique]):
        for each in results:
            each.get(timeout=WAIT)

    assert Counter(place.ran) == Counter((n, 1) for n in range(7))
    place.app.close()


def test_on_a_fifo_queue_it_waits_under_its_lease_and_the_group_stays_in_order(
    ministack_url: str, unique: str
) -> None:
    queue = f"{unique}.fifo"
    place = Place(ministack_url, queue)

    @place.app.task(bind=True, name="send", rate_limit="2/s")
    def send(self: Any, number: int) -> None:
        place.note(self.request)

    @place.app.task(name="other")
    def other() -> str:
        return "not held up"

    results = [send.apply_async((n,), group_id="g") for n in range(6)]
    with running_worker(place.app, [queue], concurrency=1):
        eventually("the group waits", lambda: len(place.ran) >= 2)
        other_result = other.apply_async(group_id="h")
        assert other_result.get(timeout=WAIT) == "not held up"
        for each in results:
            each.get(timeout=WAIT)

    assert place.ran == [(n, 1) for n in range(6)]
    place.app.close()
