"""The asyncio pool: many at once, limits inside coroutines, stopping."""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cloudq import CloudQ
from cloudq.brokers.base import Message
from cloudq.errors import SoftTimeLimitExceeded
from cloudq.pools.asyncio import AsyncioPool
from cloudq.pools.base import Died, Finished, Returned, RunnerSpec, TimedOut
from cloudq.runtime.verdict import ACK
from cloudq.testing.contracts.pool import Ends
from cloudq.worker.runner import WorkerRunner

NOWHERE = RunnerSpec("nowhere:at_all")


class Bench:
    """An app with async tasks, its runner, and a pool."""

    def __init__(self, size: int) -> None:
        self.app = CloudQ("x", broker="memory://", backend="memory://")
        self.pool = AsyncioPool(size)
        self.seen: list[Any] = []
        self.declare()
        self.pool.start(NOWHERE, WorkerRunner(self.app.lifecycle("w")))

    def declare(self) -> None:
        @self.app.task(name="nap")
        async def nap(seconds: float) -> str:
            await asyncio.sleep(seconds)
            return "slept"

        @self.app.task(name="polite", soft_time_limit=0.05)
        async def polite() -> str:
            try:
                await asyncio.sleep(30)
            except SoftTimeLimitExceeded:
                await asyncio.sleep(0)
                return "cleaned up"
            return "never"

        @self.app.task(name="rude", time_limit=0.1)
        async def rude() -> None:
            while True:
                try:
                    await asyncio.sleep(30)
                except asyncio.CancelledError:
                    self.seen.append("cancelled")
                    if len(self.seen) > 3:
                        raise

        @self.app.task(name="plain")
        def plain(x: int) -> int:
            return x * 2

    def send(self, name: str, *args: Any) -> Any:
        result = self.app.send_task(name, args)
        [delivery] = self.app.broker.receive("cloudq", 1, 0.0, 60.0)
        ends = Ends()
        self.pool.submit(delivery, ends)
        return result, ends


@pytest.fixture
def make() -> Iterator[Callable[[int], Bench]]:
    made: list[Bench] = []

    def build(size: int = 10) -> Bench:
        made.append(Bench(size))
        return made[-1]

    yield build
    for each in made:
        each.pool.stop(0.0)
        each.app.close()


def test_hundreds_run_at_once(make: Callable[[int], Bench]) -> None:
    bench = make(300)
    started = time.monotonic()
    sent = [bench.send("nap", 0.5) for _ in range(300)]

    assert all(ends.wait() == [Finished(ACK)] for _, ends in sent)
    assert time.monotonic() - started < 20  # one after another they would take 150 s


def test_no_more_than_its_size(make: Callable[[int], Bench]) -> None:
    bench = make(2)
    started = time.monotonic()
    for _, ends in [bench.send("nap", 0.15) for _ in range(4)]:
        ends.wait()

    assert time.monotonic() - started >= 0.3


def test_a_soft_limit_is_raised_where_the_coroutine_awaits(make: Callable[[int], Bench]) -> None:
    bench = make(2)
    result, ends = bench.send("polite")
    ends.wait()

    assert result.get(timeout=5) == "cleaned up"


def test_a_hard_limit_ends_even_what_does_not_listen(make: Callable[[int], Bench]) -> None:
    bench = make(1)
    _, ends = bench.send("rude")
    assert ends.wait() == [TimedOut(0.1)]

    _, after = bench.send("nap", 0.0)
    assert after.wait() == [Finished(ACK)]


def test_plain_functions_run_in_threads(make: Callable[[int], Bench]) -> None:
    bench = make(2)
    result, ends = bench.send("plain", 21)
    ends.wait()

    assert result.get(timeout=5) == 42


def test_stop_returns_cuts_short_and_may_be_repeated(make: Callable[[int], Bench]) -> None:
    bench = make(1)
    _, running = bench.send("nap", 30)
    _, waiting = bench.send("nap", 30)
    time.sleep(0.05)

    bench.pool.stop(0.1)
    bench.pool.stop(0.0)

    assert waiting.got == [Returned()]
    [end] = running.wait()
    assert isinstance(end, Died)
    late = Ends()
    bench.pool.submit(Message("x"), late)
    assert late.got == [Returned()]
