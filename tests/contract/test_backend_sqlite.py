"""The embedded store keeps the results store contract, in a file and in memory."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloudq.backends.sqlite import SqliteBackend
from cloudq.testing.clock import ManualClock
from cloudq.testing.contracts import BackendContract


class _Embedded(BackendContract):
    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    def now(self, clock: ManualClock) -> Callable[[], float]:
        return clock.time

    @pytest.fixture
    def advance(self, clock: ManualClock) -> Callable[[float], None]:
        return clock.advance


class TestMemory(_Embedded):
    @pytest.fixture
    def backend(self, clock: ManualClock) -> Iterator[SqliteBackend]:
        backend = SqliteBackend(None, clock)
        yield backend
        backend.close()


class TestFile(_Embedded):
    @pytest.fixture
    def backend(self, tmp_path: Path, clock: ManualClock) -> Iterator[SqliteBackend]:
        backend = SqliteBackend(str(tmp_path / "results.db"), clock)
        yield backend
        backend.close()
