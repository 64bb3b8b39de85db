"""Acknowledgements that wait for company: who is called for them, and when."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

import pytest

from cloudq.brokers.base import Delivery
from cloudq.worker.acks import BATCH, BEHIND, CROWD, MANY, Acks, Line


def delivery(number: int, queue: str = "q") -> Delivery:
    now = time.time()
    return Delivery(queue, str(number), "{}", f"{queue}-{number}", 1, now, now, now, now + 60)


def nobody() -> None:
    raise AssertionError("its place was free at once")


def slow(acks: Acks, seconds: float = 0.02) -> None:
    """Calls have taken so long."""
    for _ in range(30):
        acks.done([], seconds)


class Watched:
    """Acks whose clock is watched; calls are taken by the test itself."""

    def __init__(self, helpers: int = 1) -> None:
        self.acks = Acks(helpers)
        self.thread = threading.Thread(target=self.acks.linger, daemon=True)

    def __enter__(self) -> Acks:
        self.thread.start()
        return self.acks

    def __exit__(self, *_: object) -> None:
        self.acks.close()
        self.thread.join(30)
        assert not self.thread.is_alive()


def test_one_that_gets_no_company_goes_after_a_moment() -> None:
    with Watched() as acks:
        acks.add(delivery(1), nobody)
        line = acks.call()
        assert line is not None
        assert [each.message_id for each in acks.take(line, again=False)] == ["1"]


def test_many_are_called_for_without_waiting() -> None:
    acks = Acks(1)  # nobody looks at the clock
    for number in range(MANY):
        acks.add(delivery(number), nobody)
    line = acks.call()
    assert line is not None
    assert len(acks.take(line, again=False)) == BATCH


def test_full_batches_are_taken_one_after_another_and_the_rest_waits_for_company() -> None:
    with Watched() as acks:
        for number in range(2 * BATCH + 3):
            acks.add(delivery(number), nobody)
        line = acks.call()
        assert line is not None
        sizes = [len(acks.take(line, again)) for again in (False, True, True)]
        assert sizes == [BATCH, BATCH, 0]
        assert acks.call() is line  # the rest has waited long enough
        assert len(acks.take(line, again=False)) == 3


def test_what_somebody_left_behind_is_called_for_again() -> None:
    """Whoever took the first batch may hang in its call."""
    with Watched() as acks:
        for number in range(2 * BATCH):
            acks.add(delivery(number), nobody)
        first = acks.call()
        assert first is not None
        assert len(acks.take(first, again=False)) == BATCH
        second = acks.call()
        assert second is first
        assert len(acks.take(first, again=False)) == BATCH


def test_help_is_called_when_one_alone_falls_behind() -> None:
    acks = Acks(1)
    slow(acks)
    for number in range(BEHIND + 2 * BATCH):
        acks.add(delivery(number), nobody)
    line = acks.call()
    assert line is not None
    acks.take(line, again=False)
    assert acks.call() is line  # though nobody looks at the clock


def test_on_a_fifo_queue_nothing_waits_for_company() -> None:
    acks = Acks(1)
    acks.add(delivery(1, "q.fifo"), nobody)
    line = acks.call()
    assert line is not None
    assert len(acks.take(line, again=False)) == 1
    acks.add(delivery(2, "q.fifo"), nobody)
    assert len(acks.take(line, again=True)) == 1


def test_the_places_of_a_crowd_are_free_when_it_is_through() -> None:
    acks = Acks(1)
    told: list[int] = []

    def free(number: int) -> Callable[[], None]:
        return lambda: told.append(number)

    kept = [acks.add(delivery(number), free(number)) for number in range(CROWD + 2)]
    assert kept == [False] * CROWD + [True] * 2
    line = acks.call()
    assert line is not None
    while taken := acks.take(line, again=True):
        for each in acks.done(taken, 0.0):
            each()
    taken = acks.take(line, again=False)
    for each in acks.done(taken, 0.0):
        each()
    assert told == [CROWD, CROWD + 1]
    assert not acks.busy()
    assert acks.add(delivery(CROWD + 3), nobody) is False


def test_hurry_lets_nothing_wait() -> None:
    with Watched() as acks:
        acks.hurry(True)
        acks.add(delivery(1), nobody)
        line = acks.call()
        assert line is not None
        acks.add(delivery(2), nobody)
        assert acks.busy()
        assert acks.done(acks.take(line, again=True), 0.0) == []
        assert not acks.busy()


def test_what_is_just_being_taken_is_not_through() -> None:
    """A worker that stops must not take it for acknowledged."""
    acks = Acks(1)
    seen: list[bool] = []

    class Slow(deque[Delivery]):
        def popleft(self) -> Delivery:
            found = super().popleft()
            looking = threading.Thread(target=lambda: seen.append(acks.busy()))
            looking.start()
            looking.join(0.2)  # it may wait until all is taken
            threads.append(looking)
            return found

    threads: list[threading.Thread] = []
    acks.add(delivery(1, "q.fifo"), nobody)
    line = acks.call()
    assert line is not None
    line.waiting = Slow(line.waiting)
    taken = acks.take(line, again=False)
    for each in threads:
        each.join(30)
    assert seen == [True]
    acks.done(taken, 0.0)
    assert not acks.busy()


def test_at_the_end_everybody_goes_home() -> None:
    watched = Watched(helpers=3)
    with watched as acks:
        acks.add(delivery(1), nobody)
    lines: list[Line | None] = [watched.acks.call() for _ in range(3)]
    while None not in lines[-3:] or lines.count(None) < 3:
        lines.append(watched.acks.call())
    assert lines.count(None) == 3


def test_none_is_left_behind_however_many_hand_in_and_take_at_once() -> None:
    with Watched(helpers=4) as acks:
        taken: list[str] = []

        def take() -> None:
            while (line := acks.call()) is not None:
                again = False
                while found := acks.take(line, again):
                    again = True
                    taken.extend(each.receipt for each in found)
                    acks.done(found, 0.0)

        def add(start: int) -> None:
            for number in range(start, start + 2_000):
                acks.add(delivery(number), lambda: None)

        takers = [threading.Thread(target=take, daemon=True) for _ in range(4)]
        givers = [threading.Thread(target=add, args=(start,)) for start in (0, 2_000, 4_000)]
        for each in (*takers, *givers):
            each.start()
        for each in givers:
            each.join(60)
        deadline = time.monotonic() + 60
        while len(taken) < 6_000 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert sorted(taken) == sorted(f"q-{number}" for number in range(6_000))
        assert not acks.busy()
    for each in takers:
        each.join(30)
        assert not each.is_alive()


@pytest.mark.parametrize(("seconds", "calls"), [(0.0005, 0), (0.02, 1)])
def test_help_is_called_for_only_where_calls_take_their_time(seconds: float, calls: int) -> None:
    acks = Acks(1)
    acks.add(delivery(0, "other"), nobody)
    slow(acks, seconds)
    for number in range(BEHIND + BATCH + 1):
        acks.add(delivery(number), nobody)
    assert acks.call() is not None  # it was so many at once
    acks.take(acks._lines["q"], again=False)
    assert acks._calls.qsize() == calls
