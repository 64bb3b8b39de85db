"""Limits that strike exactly when a job ends: they hit the job or nobody, never the pool or the next job."""

import asyncio
import signal
import sys
import threading
import time
from typing import Any

import pytest

from cloudq.errors import SoftTimeLimitExceeded
from cloudq.pools.alarm import AlarmWatch
from cloudq.pools.asyncio import AsyncioPool
from cloudq.pools.base import Cancelled, Died, End, Finished, RunnerSpec, TimedOut, Watch
from cloudq.pools.claim import Claim
from cloudq.pools.guard import guarded
from cloudq.pools.solo import SoloPool
from cloudq.pools.threads import ThreadsPool
from cloudq.pools.watchdog import ThreadWatch, Watchdog

NONE = RunnerSpec("nowhere:nothing")
JOBS = 2000


class Racer:
    """Jobs ``(seconds, soft, hard)`` that compute for that long; None is a job without limits."""

    def __init__(self) -> None:
        self.closed = 0

    def run(self, job: Any, watch: Watch) -> Any:
        if job is None:
            return sum(range(50)) == 1225
        seconds, soft, hard = job
        try:
            watch.begin(soft, hard)
            try:
                end = time.perf_counter() + seconds
                while time.perf_counter() < end:
                    pass
                return "done"
            finally:
                watch.end()
        except SoftTimeLimitExceeded:
            return "soft"

    def close(self) -> None:
        self.closed += 1


class AsyncRacer(Racer):
    async def arun(self, job: Any, watch: Watch) -> Any:
        if job is None:
            await asyncio.sleep(0)
            return True
        seconds, soft, hard = job
        try:
            watch.begin(soft, hard)
            try:
                await asyncio.sleep(seconds)
                return "done"
            finally:
                watch.end()
        except SoftTimeLimitExceeded:
            return "soft"


class Gathered:
    def __init__(self, count: int) -> None:
        self.ends: list[End] = []
        self._left = threading.Semaphore(0)
        self._count = count

    def __call__(self, end: End) -> None:
        self.ends.append(end)
        self._left.release()

    def wait(self) -> list[End]:
        for _ in range(self._count):
            assert self._left.acquire(timeout=60), f"only {len(self.ends)} of {self._count} ends"
        return self.ends


def race(pool: Any, soft_at: float, hard: bool = False) -> dict[str, int]:
    """2,000 jobs that end within microseconds of their limit, each followed by one without limits."""
    ends = Gathered(2 * JOBS)
    for n in range(JOBS):
        seconds = soft_at + (n % 41 - 20) * 5e-6
        pool.submit((seconds, None if hard else soft_at, soft_at if hard else None), ends)
        pool.submit(None, ends)
    seen: dict[str, int] = {}
    for end in ends.wait():
        key = str(end.reply) if isinstance(end, Finished) else type(end).__name__
        seen[key] = seen.get(key, 0) + 1
    return seen


@pytest.fixture(params=["solo", "solo off the main thread", "threads", "asyncio"])
def racing(request: pytest.FixtureRequest) -> Any:
    return request.param


def _run(kind: str, hard: bool) -> tuple[dict[str, int], Racer]:
    runner = AsyncRacer() if kind == "asyncio" else Racer()
    pool: Any = {"threads": ThreadsPool, "asyncio": AsyncioPool}.get(kind, SoloPool)(1)
    pool.start(NONE, runner)
    seen: list[dict[str, int]] = []
    if kind == "solo off the main thread":
        thread = threading.Thread(target=lambda: seen.append(race(pool, 0.0004, hard)))
        thread.start()
        thread.join()
    else:
        seen.append(race(pool, 0.0004, hard))
    pool.stop(5.0)
    return seen[0], runner


def test_soft_limits_at_the_very_end_of_jobs_never_leak(racing: str) -> None:
    seen, runner = _run(racing, hard=False)

    assert seen.pop("True") == JOBS
    assert sum(seen.values()) == JOBS
    assert set(seen) <= {"done", "soft"}, seen
    assert runner.closed == 1


def test_hard_limits_at_the_very_end_of_jobs_never_leak(racing: str) -> None:
    seen, _ = _run(racing, hard=True)

    assert seen.pop("True") == JOBS
    assert sum(seen.values()) == JOBS
    assert set(seen) <= {"done", "TimedOut"}, seen


def test_limits_far_away_cost_the_watchdog_no_memory_and_no_wakeups() -> None:
    pool = ThreadsPool(2)
    pool.start(NONE, Racer())
    ends = Gathered(500)
    for _ in range(500):
        pool.submit((0.0, 3600.0, 7200.0), ends)
    ends.wait()

    assert len(pool._dog._watches) == 2
    pool.stop(5.0)


class Stuck:
    """Sits in a C call past its hard limit, and answers later."""

    def __init__(self) -> None:
        self.leave = threading.Event()

    def run(self, job: Any, watch: Watch) -> Any:
        if job == "echo":
            return job
        lock = threading.Lock()
        lock.acquire()
        threading.Thread(target=lambda: (self.leave.wait(), lock.release())).start()
        watch.begin(None, 0.05)
        lock.acquire()
        watch.end()
        return "late"

    def close(self) -> None:
        pass


def test_a_thread_that_does_not_come_back_is_replaced_and_its_late_reply_dropped() -> None:
    runner = Stuck()
    pool = ThreadsPool(1, patience=0.05)
    pool.start(NONE, runner)
    ends = Gathered(2)
    pool.submit("stuck", ends)
    pool.submit("echo", ends)

    assert sorted(ends.wait(), key=repr) == [Finished("echo"), TimedOut(0.05)]
    assert pool.abandoned == 1
    before = threading.active_count()
    runner.leave.set()
    deadline = time.monotonic() + 30
    while threading.active_count() > before - 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(ends.ends) == 2
    pool.stop(5.0)


class Structured:
    """User code with a task group of its own."""

    def __init__(self) -> None:
        self.cancelled: list[str] = []

    def run(self, job: Any, watch: Watch) -> Any:
        raise AssertionError

    async def arun(self, job: Any, watch: Watch) -> Any:
        try:
            watch.begin(0.05, 0.1 if job == "stubborn" else None)
            try:
                if job == "stubborn":
                    await self._stubborn()
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._member("a"))
                    group.create_task(self._member("b"))
            finally:
                watch.end()
        except SoftTimeLimitExceeded as error:
            return type(error).__name__

    async def _member(self, name: str) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            self.cancelled.append(name)

    async def _stubborn(self) -> None:
        for _ in range(20):
            try:
                await asyncio.sleep(0.05)
            except (SoftTimeLimitExceeded, asyncio.CancelledError):
                pass

    def close(self) -> None:
        pass


def test_a_soft_limit_in_a_coroutine_cancels_what_it_waits_for() -> None:
    runner = Structured()
    pool = AsyncioPool(2)
    pool.start(NONE, runner)
    ends = Gathered(1)
    pool.submit("group", ends)

    assert ends.wait() == [Finished("SoftTimeLimitExceeded")]
    assert sorted(runner.cancelled) == ["a", "b"]
    pool.stop(5.0)


def test_a_coroutine_that_ignores_its_hard_limit_loses_its_place() -> None:
    pool = AsyncioPool(1, patience=0.05)
    pool.start(NONE, Structured())
    ends = Gathered(2)
    pool.submit("stubborn", ends)
    pool.submit("group", ends)

    assert ends.wait() == [TimedOut(0.1), Finished("SoftTimeLimitExceeded")]
    assert pool.abandoned == 1
    pool.stop(0.0)


def test_a_coroutine_that_would_end_the_process_ends_its_job_only() -> None:
    class Exits(AsyncRacer):
        async def arun(self, job: Any, watch: Watch) -> Any:
            if job == "exit":
                raise SystemExit(3)
            return job

    pool = AsyncioPool(1)
    pool.start(NONE, Exits())
    ends = Gathered(2)
    pool.submit("exit", ends)
    pool.submit("echo", ends)

    assert isinstance(ends.wait()[0], Died)
    assert ends.ends[1] == Finished("echo")
    pool.stop(5.0)


def test_solo_is_interrupted_in_a_sleep_on_the_main_thread_and_gives_the_signal_back() -> None:
    class Sleeper(Racer):
        def run(self, job: Any, watch: Watch) -> Any:
            watch.begin(*job)
            try:
                time.sleep(90)
            finally:
                watch.end()

    before = signal.getsignal(signal.SIGALRM)
    pool = SoloPool()
    pool.start(NONE, Sleeper())
    ends = Gathered(2)
    started = time.monotonic()
    pool.submit((None, 0.05), ends)
    stopper = threading.Timer(0.1, pool.stop, (0.05,))
    stopper.start()
    pool.submit((None, None), ends)
    stopper.join()
    pool.stop(0.0)

    assert ends.wait() == [TimedOut(0.05), Died("stopped with the pool")]
    assert time.monotonic() - started < 30
    assert signal.getsignal(signal.SIGALRM) == before


def test_a_strike_on_its_way_while_the_job_ends_is_dropped() -> None:
    dog = Watchdog("test")
    dog.start()
    watch = ThreadWatch(dog)
    watch.enter()
    watch.begin(3600.0, None)
    holding = threading.Event()

    def strike_late() -> None:  # as the watchdog does, with end() already waiting for the lock
        with watch._lock:
            holding.set()
            time.sleep(0.1)
            watch._throw(SoftTimeLimitExceeded)

    striker = threading.Thread(target=strike_late)
    striker.start()
    holding.wait()
    watch.end()
    striker.join()

    watch.strike_due(time.monotonic() + 7200)  # and afterwards there is nobody to strike
    assert sum(range(1000)) == 499500
    watch.leave()
    dog.close()


def test_an_alarm_inside_begin_or_end_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = AlarmWatch()
    seen: list[str] = []
    again: list[float] = []
    monkeypatch.setattr(signal, "setitimer", lambda which, seconds, _=0.0: again.append(seconds))

    def trace(frame: Any, event: str, arg: Any) -> Any:  # an alarm at every line of the two
        if frame.f_code in (AlarmWatch.begin.__code__, AlarmWatch.end.__code__) and watch._armed:
            sys.settrace(None)
            watch._on_alarm(signal.SIGALRM, frame)
            seen.append(frame.f_code.co_name)
            sys.settrace(trace)
        return trace

    watch.enter()
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        watch.begin(0.0, None)
        watch.end()
    finally:
        sys.settrace(before)
        watch.leave()
        watch.close()

    assert {"begin", "end"} <= set(seen)
    assert again.count(0.001) >= seen.count("begin")


def test_a_job_with_a_limit_gives_somebody_elses_alarm_back() -> None:
    rung: list[float] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: rung.append(time.monotonic()))
    timer = signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        started = time.monotonic()
        pool = SoloPool()
        pool.start(NONE, Racer())
        ends = Gathered(1)
        pool.submit((0.05, 10.0, 20.0), ends)
        while not rung and time.monotonic() < started + 5:
            time.sleep(0.01)
        assert ends.wait() == [Finished("done")]
        assert 0.25 < rung[0] - started < 2.0
        pool.stop(1.0)
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *timer)


@pytest.mark.parametrize("kind", ["thread", "alarm"])
def test_a_job_that_is_cancelled_before_its_first_line_never_runs(kind: str) -> None:
    watch = ThreadWatch(Watchdog("test")) if kind == "thread" else AlarmWatch()
    runner = Counting()
    for early in (True, False, True, False):
        watch.claim = claim = Claim(lambda end: None)
        if early:
            assert watch.cancel(claim)
        end = guarded(runner, None, watch)

        assert isinstance(end, Cancelled if early else Finished)
    assert runner.count == 2
    if isinstance(watch, AlarmWatch):
        watch.close()


def test_a_job_that_has_ended_cannot_be_cancelled() -> None:
    watch = ThreadWatch(Watchdog("test"))
    watch.claim = claim = Claim(lambda end: None)
    guarded(Counting(), None, watch)

    assert not watch.cancel(claim)
    assert not watch.cancel(Claim(lambda end: None))
    assert isinstance(guarded(Counting(), None, watch), Finished)


def test_an_alarm_for_a_job_that_has_just_ended_spares_the_next() -> None:
    watch = AlarmWatch()
    watch.claim = claim = Claim(lambda end: None)
    guarded(Counting(), None, watch)

    assert watch.cancel(claim)  # it came while the job's end was told
    watch.claim = Claim(lambda end: None)
    assert isinstance(guarded(Counting(), None, watch), Finished)
    assert not watch.cancel(claim)
    watch.close()


class Counting:
    """A runner that counts what it ran."""

    def __init__(self) -> None:
        self.count = 0

    def run(self, job: Any, watch: Any) -> None:
        self.count += 1

    def close(self) -> None:
        pass
