"""What a pool must do whose jobs can be looked at and stopped one by one (``Steerable``)."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from cloudq.pools.base import Cancelled, Finished
from cloudq.testing.contracts.pool import SPEC, Ends, ToyRunner, make_runner

#: Seconds that something may take that should happen at once.
PATIENCE = 20.0


class SteerableContract:
    """Give a fixture ``make_pool(size, **options)``, as for PoolContract."""

    processes = False
    concurrent = True
    #: Jobs that wait inside the pool can be stopped too.
    reaches_waiting = False
    runner: Callable[[], ToyRunner] = staticmethod(make_runner)

    @pytest.fixture
    def pool(self, make_pool: Callable[..., Any]) -> Any:
        """A started pool of one."""
        pool = make_pool(1)
        pool.start(SPEC, self.runner())
        return pool

    def begin(self, pool: Any, job: Any, ends: Ends, pause: float = 0.005) -> None:
        """Submit and wait until it runs, or has ended already. A pool that runs jobs in ``submit`` gets a
        thread to do it in."""
        before = len(ends.got)
        if self.concurrent:
            pool.submit(job, ends)
        else:
            threading.Thread(target=pool.submit, args=(job, ends), daemon=True).start()
        end = time.monotonic() + PATIENCE
        while not any(each.job is job for each in pool.active()) and len(ends.got) == before:
            assert time.monotonic() < end, "the job does not begin"
            time.sleep(pause)

    def test_what_runs_can_be_seen(self, pool: Any) -> None:
        ends, job = Ends(), ("limited", 30.0, None, None, False)
        assert pool.active() == []
        before = time.time()
        self.begin(pool, job, ends)

        [active] = pool.active()
        assert before - 1 < active.since <= time.time()
        assert (active.pid != os.getpid()) == self.processes
        assert pool.cancel(job, True)
        assert ends.wait() == [Cancelled()]
        assert pool.active() == []

    def test_a_running_job_is_stopped_and_the_pool_goes_on(self, pool: Any) -> None:
        ends, job = Ends(), ("limited", 30.0, None, None, False)
        self.begin(pool, job, ends)

        assert pool.cancel(job, True)
        assert ends.wait() == [Cancelled()]
        pool.submit(("echo", "after"), ends)
        assert ends.wait(2)[1] == Finished("after")

    def test_a_running_job_is_left_alone_unless_it_is_meant(self, pool: Any) -> None:
        ends, job = Ends(), ("limited", 0.3, None, None, False)
        self.begin(pool, job, ends)

        assert not pool.cancel(job, False)
        assert not pool.cancel((*job,), True)  # an equal one is another one
        assert ends.wait() == [Finished("done")]

    def test_a_job_that_has_ended_is_no_longer_there(self, pool: Any) -> None:
        ends, job = Ends(), ("echo", 1)
        pool.submit(job, ends)
        ends.wait()

        assert not pool.cancel(job, True)
        pool.submit(("echo", 2), ends)
        assert ends.wait(2)[1] == Finished(2)

    def test_a_job_with_a_limit_is_stopped_too(self, pool: Any) -> None:
        ends, job = Ends(), ("limited", 30.0, 25.0, 28.0, True)
        self.begin(pool, job, ends)

        assert pool.cancel(job, True)
        assert ends.wait() == [Cancelled()]

    def test_a_job_that_can_be_seen_can_be_stopped(self, pool: Any) -> None:
        ends = Ends()
        rounds = 4 if self.processes else 100
        for n in range(rounds):  # what has not come as far as its first line, and what says that it begins
            job = ("limited", 30.0, 25.0, 28.0, True)
            self.begin(pool, job, ends, n % 4 * 0.0002)

            assert pool.cancel(job, True)
            ends.wait(n + 1)

        assert ends.got == [Cancelled()] * rounds

    def test_a_stop_at_the_very_end_of_a_job_never_reaches_the_next(self, pool: Any) -> None:
        ends = Ends()
        rounds = 6 if self.processes else 40  # a process takes its time to come back
        for n in range(rounds):
            job = ("limited", 0.01, None, None, False)
            before = len(ends.got)
            self.begin(pool, job, ends)
            time.sleep(0.004 + (n % 6) * 0.0015)
            pool.cancel(job, True)
            pool.submit(("echo", "clean"), ends)
            ends.wait(before + 2, PATIENCE)

        assert ends.got.count(Finished("clean")) == rounds
        assert all(each in (Finished("clean"), Finished("done"), Cancelled()) for each in ends.got)

    def test_a_job_that_waits_never_runs(self, pool: Any) -> None:
        if not self.reaches_waiting:
            pytest.skip("what waits in this pool is left to its runner")
        ends, first, second = Ends(), ("limited", 0.5, None, None, False), ("echo", 1)
        self.begin(pool, first, ends)
        pool.submit(second, ends)

        assert pool.cancel(second, False)
        assert ends.got == [Cancelled(started=False)]
        assert ends.wait(2)[1] == Finished("done")
