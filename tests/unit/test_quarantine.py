"""Quarantine: last chances one at a time, in a pool that comes and goes."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from cloudq.brokers.base import Delivery
from cloudq.errors import ImproperlyConfigured
from cloudq.pools.base import Active, End, Finished, Returned
from cloudq.worker.quarantine import Quarantine


def delivery(name: str) -> Delivery:
    now = time.time()
    return Delivery("q", name, "{}", f"r-{name}", 5, now, now, now, now + 60)


class Pool:
    """Runs a job when it is told to."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Any, Callable[[End], None]]] = []
        self.submitted = 0
        self.stopped: list[float] = []
        self.cancelled: list[Any] = []

    def submit(self, job: Any, done: Callable[[End], None]) -> None:
        self.submitted += 1
        self.jobs.append((job, done))

    def stop(self, grace: float) -> None:
        self.stopped.append(grace)
        for _, done in self.jobs:
            done(Returned())
        self.jobs.clear()

    def active(self) -> list[Active]:
        return [Active(job, 0.0, 1) for job, _ in self.jobs]

    def cancel(self, job: Any, running: bool) -> bool:
        self.cancelled.append(job)
        return True


class Scene:
    def __init__(self, idle: float = 30.0, fails: bool = False) -> None:
        self.pools: list[Pool] = []
        self.otherwise: list[Delivery] = []
        self.ends: list[End] = []
        self._fails = fails
        self.quarantine = Quarantine(self._make, self.otherwise.append, idle)  # type: ignore[arg-type]

    def _make(self) -> Pool:
        if self._fails:
            raise ImproperlyConfigured("no such module")
        self.pools.append(Pool())
        return self.pools[-1]

    def submit(self, job: Delivery) -> None:
        self.quarantine.submit(job, self.ends.append)

    def until(self, check: Callable[[], object]) -> None:
        deadline = time.monotonic() + 10
        while not check():
            assert time.monotonic() < deadline
            time.sleep(0.005)


def test_the_pool_is_made_when_it_is_first_needed_and_used_again() -> None:
    scene = Scene()
    assert scene.pools == []
    for name in "ab":
        scene.submit(delivery(name))
    scene.until(lambda: scene.pools and len(scene.pools[0].jobs) == 2)
    assert [each.job.message_id for each in scene.quarantine.active()] == ["a", "b"]
    for _, done in scene.pools[0].jobs:
        done(Finished("ok"))
    scene.pools[0].jobs.clear()
    scene.quarantine.stop(0.0)

    assert scene.ends == [Finished("ok")] * 2
    assert len(scene.pools) == 1


def test_an_idle_pool_is_let_go_and_another_made_when_needed() -> None:
    scene = Scene(idle=0.02)
    scene.submit(delivery("a"))
    scene.until(lambda: scene.pools and scene.pools[0].jobs)
    time.sleep(0.1)
    assert scene.pools[0].stopped == [], "it is at work"
    scene.pools[0].jobs.pop()[1](Finished("ok"))
    scene.until(lambda: scene.pools[0].stopped)
    scene.submit(delivery("b"))
    scene.until(lambda: len(scene.pools) == 2 and scene.pools[1].jobs)
    scene.quarantine.stop(0.0)


def test_where_no_process_can_be_had_the_job_runs_where_others_do(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene(fails=True)
    job = delivery("a")
    scene.submit(job)
    scene.until(lambda: scene.otherwise)

    assert scene.otherwise == [job]
    assert "no such module" in caplog.text
    scene.quarantine.stop(0.0)


def test_a_stop_gives_back_what_runs_and_what_comes_later() -> None:
    scene = Scene()
    scene.submit(delivery("a"))
    scene.until(lambda: scene.pools and scene.pools[0].jobs)
    scene.quarantine.stop(0.5)
    scene.submit(delivery("b"))

    assert scene.ends == [Returned(), Returned()]
    assert 0.5 in scene.pools[0].stopped


def test_a_stop_while_the_pool_is_being_made_gives_the_job_back() -> None:
    going = threading.Event()
    scene = Scene()
    make = scene._make

    def slowly() -> Pool:
        assert going.wait(10)
        return make()

    scene.quarantine._make = slowly  # type: ignore[assignment]
    scene.submit(delivery("a"))
    stopper = threading.Thread(target=scene.quarantine.stop, args=(5.0,))
    stopper.start()
    scene.until(lambda: scene.quarantine._late())
    going.set()
    stopper.join(10)
    scene.until(lambda: scene.ends)

    assert scene.ends == [Returned()]
    assert scene.pools[0].stopped == [0.0]
    assert scene.pools[0].submitted == 0


def test_only_its_own_jobs_are_cancelled() -> None:
    scene = Scene()
    ours = delivery("a")
    scene.submit(ours)
    scene.until(lambda: scene.pools and scene.pools[0].jobs)

    assert not scene.quarantine.cancel(delivery("b"), True)
    assert scene.quarantine.cancel(ours, True)
    assert scene.pools[0].cancelled == [ours]
    scene.quarantine.stop(0.0)
