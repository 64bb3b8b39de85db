"""The stores and the clock that every coordination test runs over."""

from collections.abc import Iterator

import pytest

from cloudq.backends.base import ResultBackend
from cloudq.backends.sqlite import SqliteBackend
from cloudq.testing.clock import JumpingClock
from cloudq.testing.stores import ContentVersions, MemoryStore


@pytest.fixture
def clock() -> JumpingClock:
    """Time that goes on when somebody sleeps, or when a test says so."""
    return JumpingClock()


@pytest.fixture(params=["memory", "tells-what-is-there", "content-versions", "sqlite"])
def store(request: pytest.FixtureRequest, clock: JumpingClock) -> Iterator[ResultBackend]:
    """Each kind of store once."""
    if request.param == "sqlite":
        store: ResultBackend = SqliteBackend(None, clock)
    elif request.param == "content-versions":
        store = ContentVersions(MemoryStore(clock))
    else:
        store = MemoryStore(clock, conflict_has_entry=request.param == "tells-what-is-there")
    yield store
    store.close()
