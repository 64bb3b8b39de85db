"""What every pool must do. The runner of these tests is ``make_runner`` below, by import path."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from cloudq.errors import ImproperlyConfigured, SoftTimeLimitExceeded
from cloudq.pools.base import Died, End, Finished, Returned, RunnerSpec, TimedOut, Watch

SPEC = RunnerSpec("cloudq.testing.contracts.pool:make_runner")


class ToyRunner:
    """Does what the job says: ``("echo", value)``, ``("sleep", seconds, soft, hard)``, ``("kill", signal)`` ..."""

    def run(self, job: Any, watch: Watch) -> Any:
        kind, *rest = job
        if kind == "limited":
            return self._limited(watch, *rest)
        if kind == "afterwards":
            return self._afterwards(watch, *rest)
        return getattr(self, "do_" + kind)(*rest)

    def _limited(
        self, watch: Watch, seconds: float, soft: float | None, hard: float | None, stubborn: bool
    ) -> Any:
        try:
            watch.begin(soft, hard)
            try:
                return self._busy(seconds, stubborn)
            finally:
                watch.end()
        except SoftTimeLimitExceeded:
            return "soft"

    def _busy(self, seconds: float, stubborn: bool) -> str:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                time.sleep(0.005)
            except SoftTimeLimitExceeded:
                if not stubborn:
                    raise
        return "done"

    def do_echo(self, value: Any) -> Any:
        return value

    def do_sleep(self, seconds: float) -> str:
        time.sleep(seconds)
        return "slept"

    def do_span(self, seconds: float) -> tuple[float, float]:
        start = time.time()
        time.sleep(seconds)
        return start, time.time()

    def _afterwards(self, watch: Watch, seconds: float, soft: float, hard: float) -> str:
        watch.begin(soft, hard)
        watch.end()
        self._busy(seconds, False)
        return "undisturbed"

    def do_where(self) -> tuple[int, str]:
        return os.getpid(), threading.current_thread().name

    def do_kill(self, number: int) -> None:
        os.kill(os.getpid(), number)
        time.sleep(10)

    def do_exit(self, code: int) -> None:
        os._exit(code)

    def do_raise(self) -> None:
        raise ValueError("a runner should not, but this one does")

    def do_unpicklable(self) -> Any:
        return lambda: None

    def do_grow(self, megabytes: int) -> int:
        block = bytearray(megabytes * 1024 * 1024)
        return len(block)

    def close(self) -> None:
        pass


class AsyncToyRunner(ToyRunner):
    """The same on an event loop, for pools that have one."""

    async def arun(self, job: Any, watch: Watch) -> Any:
        kind, *rest = job
        if kind == "limited":
            return await self._alimited(watch, *rest)
        if kind == "afterwards":
            seconds, soft, hard = rest
            watch.begin(soft, hard)
            watch.end()
            await self._await(seconds, False)
            return "undisturbed"
        if kind == "sleep":
            await asyncio.sleep(rest[0])
            return "slept"
        if kind == "span":
            start = time.time()
            await asyncio.sleep(rest[0])
            return start, time.time()
        return getattr(self, "do_" + kind)(*rest)

    async def _alimited(
        self, watch: Watch, seconds: float, soft: float | None, hard: float | None, stubborn: bool
    ) -> Any:
        try:
            watch.begin(soft, hard)
            try:
                return await self._await(seconds, stubborn)
            finally:
                watch.end()
        except SoftTimeLimitExceeded:
            return "soft"

    async def _await(self, seconds: float, stubborn: bool) -> str:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                await asyncio.sleep(0.005)
            except SoftTimeLimitExceeded:
                if not stubborn:
                    raise
        return "done"


def make_async_runner() -> AsyncToyRunner:
    """By import path."""
    return AsyncToyRunner()


def make_runner() -> ToyRunner:
    """By import path, as children make it."""
    return ToyRunner()


def make_broken() -> ToyRunner:
    """A runner that cannot be made."""
    raise RuntimeError("the app has a bug")


class Ends:
    """Collects what became of jobs."""

    def __init__(self) -> None:
        self.got: list[End] = []
        self._changed = threading.Condition()

    def __call__(self, end: End) -> None:
        with self._changed:
            self.got.append(end)
            self._changed.notify_all()

    def wait(self, count: int = 1, timeout: float = 20.0) -> list[End]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.got) >= count, timeout), f"only {self.got}"
            return list(self.got)


class PoolContract:
    """Give a fixture ``make_pool(size, **options)`` that makes pools and stops them after the test."""

    #: Jobs run in processes of their own.
    processes = False
    #: Several jobs run at once, and submit() does not wait.
    concurrent = True
    #: Makes the runner for pools that stay in this process.
    runner: Callable[[], ToyRunner] = staticmethod(make_runner)

    @pytest.fixture
    def pool(self, make_pool: Callable[..., Any]) -> Any:
        """A started pool of two."""
        pool = make_pool(2)
        pool.start(SPEC, self.runner())
        return pool

    def test_a_job_gives_its_reply(self, pool: Any) -> None:
        ends = Ends()
        pool.submit(("echo", {"a": [1]}), ends)

        assert ends.wait() == [Finished({"a": [1]})]

    def test_many_jobs_each_give_theirs_once(self, pool: Any) -> None:
        ends = Ends()
        for n in range(200):
            pool.submit(("echo", n), ends)

        assert sorted(each.reply for each in ends.wait(200)) == list(range(200))  # type: ignore[union-attr]

    def test_a_large_job_passes(self, pool: Any) -> None:
        ends = Ends()
        pool.submit(("echo", b"x" * 3_000_000), ends)

        assert len(ends.wait()[0].reply) == 3_000_000  # type: ignore[union-attr]

    def test_jobs_run_side_by_side(self, pool: Any) -> None:
        if not self.concurrent:
            pytest.skip("one at a time, by design")
        ends = Ends()
        started = time.monotonic()
        pool.submit(("sleep", 0.4), ends)
        pool.submit(("sleep", 0.4), ends)

        ends.wait(2)
        assert time.monotonic() - started < 0.75

    def test_a_soft_limit_raises_in_the_job(self, pool: Any) -> None:
        ends = Ends()
        pool.submit(("limited", 5.0, 0.1, None, False), ends)

        assert ends.wait() == [Finished("soft")]

    def test_a_hard_limit_ends_the_job(self, pool: Any) -> None:
        ends = Ends()
        pool.submit(("limited", 30.0, None, 0.2, False), ends)
        assert ends.wait() == [TimedOut(0.2)]

        pool.submit(("echo", "after"), ends)
        assert ends.wait(2)[1] == Finished("after")

    def test_a_job_that_ignores_its_soft_limit_meets_the_hard_one(self, pool: Any) -> None:
        ends = Ends()
        pool.submit(("limited", 30.0, 0.1, 0.3, True), ends)

        assert ends.wait() == [TimedOut(0.3)]

    def test_a_job_within_its_limits_is_not_disturbed(self, pool: Any) -> None:
        ends = Ends()
        for _ in range(20):
            pool.submit(("limited", 0.001, 0.5, 1.0, False), ends)

        assert ends.wait(20) == [Finished("done")] * 20

    def test_limits_that_strike_at_the_end_never_leak_into_the_next_job(self, pool: Any) -> None:
        """Jobs that end right at their soft limit: each ends one way or the other, and the pool goes on."""
        ends = Ends()
        for n in range(100):
            pool.submit(("limited", 0.004 + (n % 5) * 0.001, 0.006, None, False), ends)
            pool.submit(("echo", "clean"), ends)

        replies = [each.reply for each in ends.wait(200)]  # type: ignore[union-attr]
        assert replies.count("clean") == 100
        assert set(replies) <= {"clean", "soft", "done"}

    def test_stop_returns_what_has_not_started(self, pool: Any) -> None:
        if not self.concurrent:
            pytest.skip("nothing waits: submit runs the job")
        running, waiting = Ends(), Ends()
        for _ in range(2):
            pool.submit(("sleep", 0.4), running)
        for _ in range(5):
            pool.submit(("echo", 1), waiting)
        time.sleep(0.1)  # so that both have begun

        pool.stop(10.0)

        assert waiting.got == [Returned()] * 5
        assert running.got == [Finished("slept")] * 2

    def test_stop_cuts_short_what_runs_too_long(self, pool: Any) -> None:
        if not self.concurrent:
            pytest.skip("submit runs the job")
        ends = Ends()
        pool.submit(("limited", 30.0, None, None, False), ends)
        time.sleep(0.1)
        started = time.monotonic()

        pool.stop(0.2)

        [end] = ends.wait()
        assert isinstance(end, Died)
        assert time.monotonic() - started < 5.0

    def test_a_stopped_pool_takes_no_jobs(self, pool: Any) -> None:
        pool.stop(1.0)
        pool.stop(0.0)
        ends = Ends()
        pool.submit(("echo", 1), ends)

        assert ends.wait() == [Returned()]

    def test_a_runner_that_raises_does_not_end_the_pool(self, pool: Any) -> None:
        ends = Ends()
        pool.submit(("raise",), ends)
        assert isinstance(ends.wait()[0], Died)

        pool.submit(("echo", 1), ends)
        assert ends.wait(2)[1] == Finished(1)

    def test_a_callback_that_raises_does_not_end_the_pool(self, pool: Any) -> None:
        def bad(end: End) -> None:
            raise RuntimeError("a listener with a bug")

        ends = Ends()
        for _ in range(3):
            pool.submit(("echo", 0), bad)
        pool.submit(("echo", 1), ends)

        assert ends.wait() == [Finished(1)]

    def test_a_callback_may_submit_the_next_job(self, pool: Any) -> None:
        ends = Ends()

        def next_one(end: End) -> None:
            ends(end)
            if len(ends.got) < 50:
                pool.submit(("echo", len(ends.got)), next_one)

        pool.submit(("echo", 0), next_one)

        assert ends.wait(50) == [Finished(n) for n in range(50)]

    def test_a_callback_may_stop_the_pool(self, pool: Any) -> None:
        ends = Ends()

        def stop(end: End) -> None:
            pool.stop(5.0)
            ends(end)

        pool.submit(("echo", 1), stop)

        assert ends.wait() == [Finished(1)]
        pool.stop(5.0)

    def test_a_second_stop_cuts_the_first_one_short(self, pool: Any) -> None:
        if not self.concurrent:
            pytest.skip("submit runs the job")
        ends = Ends()
        pool.submit(("limited", 30.0, None, None, False), ends)
        time.sleep(0.1)
        patient = threading.Thread(target=pool.stop, args=(60.0,))
        patient.start()
        time.sleep(0.1)
        started = time.monotonic()

        pool.stop(0.0)
        patient.join(10.0)

        assert not patient.is_alive()
        assert time.monotonic() - started < 8.0
        [end] = ends.wait()
        assert isinstance(end, Died)

    def test_a_limit_is_over_with_the_user_code(self, pool: Any) -> None:
        """What the runner does after ``watch.end()`` (writing results) is nobody's to interrupt."""
        ends = Ends()
        pool.submit(("afterwards", 0.4, 0.1, 0.2), ends)

        assert ends.wait() == [Finished("undisturbed")]

    def test_the_size_can_change(self, pool: Any) -> None:
        if not hasattr(pool, "resize"):
            pytest.skip("of fixed size")
        ends = Ends()
        pool.resize(4)
        started = self._side_by_side(pool, 4)
        assert started == 4

        pool.resize(1)
        assert pool.size == 1
        pool.submit(("echo", 1), ends)
        ends.wait()
        assert self._side_by_side(pool, 2) == 1

    def _side_by_side(self, pool: Any, jobs: int) -> int:
        """How many jobs overlapped the first that ended. Children take a moment to start: so several tries."""
        most = 0
        deadline = time.monotonic() + 15.0
        while most < jobs and time.monotonic() < deadline:
            ends = Ends()
            for _ in range(jobs):
                pool.submit(("span", 0.15), ends)
            spans = sorted(each.reply for each in ends.wait(jobs))  # type: ignore[union-attr]
            most = sum(start < min(end for _, end in spans) for start, _ in spans)
            if jobs == 2:
                break
        return most

    # --- pools of processes -------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("job", "detail"),
        [
            (("kill", int(signal.SIGKILL)), "killed by signal 9 (SIGKILL)"),
            (("kill", int(signal.SIGSEGV)), "killed by signal 11 (SIGSEGV)"),
            (("exit", 3), "exit code 3"),
        ],
    )
    def test_a_child_that_dies_costs_its_own_job_only(self, pool: Any, job: Any, detail: str) -> None:
        if not self.processes:
            pytest.skip("no processes")
        dying, living = Ends(), Ends()
        pool.submit(("sleep", 0.3), living)
        pool.submit(job, dying)
        for n in range(10):
            pool.submit(("echo", n), living)

        assert dying.wait() == [Died(detail)]
        assert len(living.wait(11)) == 11

    def test_a_reply_that_cannot_travel_is_an_end_not_a_hang(self, pool: Any) -> None:
        if not self.processes:
            pytest.skip("no processes")
        ends = Ends()
        pool.submit(("unpicklable",), ends)

        [end] = ends.wait()
        assert isinstance(end, Died)
        assert "pickled" in end.detail

    def test_children_are_recycled(self, make_pool: Callable[..., Any]) -> None:
        if not self.processes:
            pytest.skip("no processes")
        pool = make_pool(1, max_tasks_per_child=2)
        pool.start(SPEC)
        ends = Ends()
        for _ in range(6):
            pool.submit(("where",), ends)

        pids = [each.reply[0] for each in ends.wait(6)]  # type: ignore[union-attr]
        assert len(set(pids)) == 3
        assert os.getpid() not in pids

    def test_children_that_grew_are_recycled(self, make_pool: Callable[..., Any]) -> None:
        if not self.processes:
            pytest.skip("no processes")
        pool = make_pool(1, max_memory_per_child=200_000)
        pool.start(SPEC)
        ends = Ends()
        for job in (("where",), ("where",), ("grow", 300), ("where",)):
            pool.submit(job, ends)

        first, second, _, after = (each.reply for each in ends.wait(4))  # type: ignore[union-attr]
        assert first == second
        assert after[0] != first[0]

    def test_a_runner_that_cannot_be_made_is_told_at_start(self, make_pool: Callable[..., Any]) -> None:
        if not self.processes:
            pytest.skip("no processes")
        pool = make_pool(2)
        with pytest.raises(ImproperlyConfigured, match="the app has a bug"):
            pool.start(RunnerSpec("cloudq.testing.contracts.pool:make_broken"))
