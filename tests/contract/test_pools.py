"""Every pool keeps the pool contract."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cloudq.pools.asyncio import AsyncioPool
from cloudq.pools.prefork import PreforkPool
from cloudq.pools.solo import SoloPool
from cloudq.pools.threads import ThreadsPool
from cloudq.testing.contracts import PoolContract, SteerableContract
from cloudq.testing.contracts.pool import make_async_runner


def _making(kind: Any) -> Iterator[Callable[..., Any]]:
    made: list[Any] = []

    def make(size: int, **options: Any) -> Any:
        made.append(kind(size, **options))
        return made[-1]

    yield make
    for each in made:
        each.stop(0.0)


class TestSolo(PoolContract):
    concurrent = False

    @pytest.fixture
    def make_pool(self) -> Iterator[Callable[..., Any]]:
        yield from _making(SoloPool)


class TestThreads(PoolContract):
    @pytest.fixture
    def make_pool(self) -> Iterator[Callable[..., Any]]:
        yield from _making(ThreadsPool)


class TestAsyncio(PoolContract):
    runner = staticmethod(make_async_runner)

    @pytest.fixture
    def make_pool(self) -> Iterator[Callable[..., Any]]:
        yield from _making(AsyncioPool)


class TestAsyncioWithARunnerThatIsNot(PoolContract):
    """It gets threads."""

    @pytest.fixture
    def make_pool(self) -> Iterator[Callable[..., Any]]:
        yield from _making(AsyncioPool)


class TestPrefork(PoolContract):
    processes = True

    @pytest.fixture
    def make_pool(self) -> Iterator[Callable[..., Any]]:
        yield from _making(PreforkPool)


class TestPreforkByForkserver(PoolContract):
    processes = True

    @pytest.fixture
    def make_pool(self) -> Iterator[Callable[..., Any]]:
        yield from _making(functools.partial(PreforkPool, start_method="forkserver"))


class TestSteeringSolo(SteerableContract):
    concurrent = False

    @pytest.fixture
    def make_pool(self) -> Iterator[Callable[..., Any]]:
        yield from _making(SoloPool)


class TestSteeringThreads(SteerableContract):
    @pytest.fixture
    def make_pool(self) -> Iterator[Callable[..., Any]]:
        yield from _making(ThreadsPool)


class TestSteeringAsyncio(SteerableContract):
    runner = staticmethod(make_async_runner)

    @pytest.fixture
    def make_pool(self) -> Iterator[Callable[..., Any]]:
        yield from _making(AsyncioPool)


class TestSteeringPrefork(SteerableContract):
    processes = True
    reaches_waiting = True

    @pytest.fixture
    def make_pool(self) -> Iterator[Callable[..., Any]]:
        yield from _making(functools.partial(PreforkPool, start_method="forkserver"))
