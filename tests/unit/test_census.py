"""One worker counts, the others read: whoever dies, is slow, or comes at the same moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cloudq.backends.base import Condition, Version
from cloudq.backends.open import open_backend
from cloudq.control.roster import WorkerInfo
from cloudq.errors import CorruptRecord, ServiceUnavailable
from cloudq.monitoring.census import CLAIM, FRESH, USELESS, Census, Line
from cloudq.testing.clock import ManualClock


class Fleet:
    """Workers that share a store; counts how often the roster was listed."""

    def __init__(self, size: int) -> None:
        self.clock = ManualClock(1000.0)
        self.store = open_backend("memory://", self.clock)
        self.size = size
        self.listed = 0
        self.meanwhile: Callable[[], Any] = lambda: None

    def alive(self) -> list[WorkerInfo]:
        self.listed += 1
        self.meanwhile()
        now = self.clock.time()
        stats = {"queues": {"q": {"waited": 7.5}}}
        return [
            WorkerInfo(f"w{n}", "app", 1, "h", "threads", 4, ("q", "r"), 0.0, now, 30.0, 15.0, stats=stats)
            for n in range(self.size)
        ]

    def census(self, store: Any = None) -> Census:
        return Census(store or self.store, "default", self.clock, self.alive)


def test_a_hundred_workers_list_once_a_minute_together() -> None:
    fleet = Fleet(100)
    for _ in range(3):
        lines = {fleet.census().take().line("q") for _ in range(100)}
        assert lines == {Line(100, 7.5)}
        fleet.clock.advance(60.0)
    assert fleet.listed == 3
    assert fleet.census().take().line("nobody's") == Line()


def test_while_one_counts_the_others_go_by_the_last_count() -> None:
    fleet = Fleet(2)
    fleet.census().take()
    fleet.clock.advance(FRESH)
    seen = []
    fleet.meanwhile = lambda: seen.append(fleet.census().take().line("q").workers)
    fleet.size = 3
    assert fleet.census().take().line("q").workers == 3
    assert (seen, fleet.listed) == ([2], 2)


def test_who_finds_no_count_at_all_while_one_counts_does_it_alone() -> None:
    fleet = Fleet(2)
    seen = []

    def other() -> None:
        fleet.meanwhile = lambda: None
        seen.append(fleet.census().take().line("q").workers)

    fleet.meanwhile = other
    assert fleet.census().take().line("q").workers == 2
    assert (seen, fleet.listed) == ([2], 2)


def test_two_that_find_it_old_at_once_list_once() -> None:
    fleet = Fleet(2)
    fleet.census().take()
    fleet.clock.advance(FRESH)

    class Overtaken:
        """Another worker claims between this one's read and its write."""

        def read(self, key: str) -> Any:
            found = fleet.store.read(key)
            fleet.census().take()
            return found

        def write(self, key: str, value: bytes, when: Condition, expires_at: float) -> Version:
            return fleet.store.write(key, value, when, expires_at)

    assert fleet.census(Overtaken()).take().line("q").workers == 2
    assert fleet.listed == 2  # the first count of all, and the other one's


def test_a_claim_whose_owner_died_is_over_after_seconds() -> None:
    fleet = Fleet(2)
    fleet.census().take()
    fleet.clock.advance(FRESH)

    def die() -> None:
        raise ServiceUnavailable("gone")

    fleet.meanwhile = die
    with pytest.raises(ServiceUnavailable):
        fleet.census().take()
    fleet.meanwhile = lambda: None
    fleet.size = 5
    assert fleet.census().take().line("q").workers == 2  # claimed: the last count serves
    fleet.clock.advance(CLAIM)
    assert fleet.census().take().line("q").workers == 5


def test_a_slow_one_does_not_write_over_a_newer_count() -> None:
    fleet = Fleet(2)

    def sleep() -> None:
        fleet.meanwhile = lambda: None
        fleet.clock.advance(CLAIM)
        fleet.size = 9
        fleet.census().take()
        fleet.size = 2

    fleet.meanwhile = sleep
    assert fleet.census().take().line("q").workers == 2
    assert fleet.census().take().line("q").workers == 9


def test_a_count_that_is_too_old_is_not_gone_by() -> None:
    fleet = Fleet(2)
    fleet.census().take()
    fleet.clock.advance(USELESS)
    seen = []

    def other() -> None:
        fleet.meanwhile = lambda: None
        seen.append(fleet.census().take().line("q").workers)

    fleet.meanwhile, fleet.size = other, 4
    fleet.census().take()
    assert seen == [4]


def test_what_is_no_count_is_told() -> None:
    fleet = Fleet(1)
    fleet.store.write("census/default", b"[]")
    with pytest.raises(CorruptRecord, match="census/default"):
        fleet.census().take()
