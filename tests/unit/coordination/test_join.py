"""The join's rules one by one; tests/chaos/test_join.py lets them all meet."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from cloudq.backends.base import ResultBackend
from cloudq.coordination.join import DEFAULT_TTL, FANOUT, Join
from cloudq.errors import CorruptRecord, ServiceUnavailable
from cloudq.testing.clock import JumpingClock
from cloudq.testing.stores import Counting, MemoryStore, Wrapper


def arrive_all(
    store: ResultBackend, clock: JumpingClock, size: int, order: list[int], fanout: int = FANOUT
) -> list[bool]:
    """Every member on a worker of its own."""
    return [Join(store, "g", size, clock, fanout=fanout).arrive(index) for index in order]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8, 9, 10, 27, 28])
def test_only_the_last_arrival_completes_the_group_in_any_order(
    size: int, store: ResultBackend, clock: JumpingClock
) -> None:
    order = random.Random(size).sample(range(size), size)
    answers = arrive_all(store, clock, size, order, fanout=3)
    assert answers == [False] * (size - 1) + [True]
    assert Join(store, "g", size, clock, fanout=3).complete()


def test_a_member_delivered_again_counts_once_and_answers_as_before(
    store: ResultBackend, clock: JumpingClock
) -> None:
    join = Join(store, "g", 3, clock)
    assert [join.arrive(0), join.arrive(0), join.arrive(0), join.arrive(1)] == [False] * 4
    assert join.arrive(2)
    assert join.arrive(0)  # whoever comes back after the end may have to fire


def test_the_follow_up_is_sent_once_and_the_sending_noted_after_it(
    store: ResultBackend, clock: JumpingClock
) -> None:
    join = Join(store, "g", 1, clock)
    join.arrive(0)
    noted = []
    assert join.fire(lambda: noted.append(join.fired()))
    assert not join.fire(lambda: noted.append(True))
    assert noted == [False]


def test_a_sending_that_fails_is_done_again(store: ResultBackend, clock: JumpingClock) -> None:
    join = Join(store, "g", 1, clock)
    assert join.arrive(0)

    def fails() -> None:
        raise ServiceUnavailable("no queue")

    with pytest.raises(ServiceUnavailable):
        join.fire(fails)
    assert join.arrive(0)
    assert join.fire(lambda: None)


def test_a_size_told_last_completes_what_has_arrived(store: ResultBackend, clock: JumpingClock) -> None:
    for size in (1, 2, 3, 4, 9, 10, 27):
        for index in range(size):
            assert not Join(store, f"g{size}", None, clock, fanout=3).arrive(index)
        assert not Join(store, f"g{size}", None, clock, fanout=3).complete()
        assert Join(store, f"g{size}", None, clock, fanout=3).close(size)


def test_a_size_told_early_lets_the_last_arrival_complete(store: ResultBackend, clock: JumpingClock) -> None:
    for size in (1, 2, 3, 4, 9, 10, 27):
        assert not Join(store, f"g{size}", None, clock, fanout=3).close(size)
        answers = [Join(store, f"g{size}", None, clock, fanout=3).arrive(index) for index in range(size)]
        assert answers == [False] * (size - 1) + [True]


class RacingClose(Wrapper):
    """Tells the size right before the ``moment``-th call."""

    def __init__(self, store: ResultBackend, moment: int, close: Callable[[], bool]) -> None:
        super().__init__(store)
        self.left, self.close_join = moment, close
        self.completed: bool | None = None

    def before(self, verb: str, key: str) -> None:
        self.left -= 1
        if self.left == 0:
            self.completed = self.close_join()


@pytest.mark.parametrize("size", range(1, 11))
def test_a_size_told_between_any_two_steps_is_seen_by_one_of_the_two(
    size: int, store: ResultBackend, clock: JumpingClock
) -> None:
    for last in range(size):
        for moment in range(1, 100):
            name = f"g-{last}-{moment}"
            closing = Join(store, name, None, clock, fanout=3)
            racing = RacingClose(store, moment, lambda closing=closing: closing.close(size))  # type: ignore[misc]
            for index in [*(other for other in range(size) if other != last), last]:
                arrived = Join(racing, name, None, clock, fanout=3).arrive(index)
            if racing.completed is None:  # that was the moment after the last call
                break
            assert arrived or racing.completed, (last, moment)


def test_an_empty_group_is_complete_when_it_is_closed(store: ResultBackend, clock: JumpingClock) -> None:
    assert Join(store, "g", None, clock).close(0)
    assert Join(store, "g", 0, clock).complete()


def test_closing_may_be_repeated_but_not_with_another_size(store: ResultBackend, clock: JumpingClock) -> None:
    Join(store, "g", None, clock).close(3)
    assert not Join(store, "g", None, clock).close(3)
    with pytest.raises(ValueError, match="closed with 3 members, not 4"):
        Join(store, "g", None, clock).close(4)
    with pytest.raises(ValueError, match="not 2"):
        Join(store, "h", 5, clock).close(2)


def test_an_index_outside_the_size_is_refused(store: ResultBackend, clock: JumpingClock) -> None:
    with pytest.raises(ValueError, match="no number 3"):
        Join(store, "g", 3, clock).arrive(3)
    with pytest.raises(ValueError, match="no number -1"):
        Join(store, "g", None, clock).arrive(-1)
    Join(store, "h", None, clock).close(2)
    with pytest.raises(ValueError, match="closed with 2 members"):
        Join(store, "h", None, clock).arrive(2)


def test_no_key_of_a_join_lives_for_ever(store: ResultBackend, clock: JumpingClock) -> None:
    join = Join(store, "g", None, clock, fanout=2)
    for index in range(5):
        join.arrive(index)
    join.close(5)
    join.fire(lambda: None)
    written = [
        key for level in range(4) for shard in range(3) for key in store.keys(f"join/g/{level}-{shard}/")
    ]
    written += ["join/g/size", "join/g/fired"]
    assert len(written) > 8
    for key in written:
        entry = store.read(key)
        assert entry is not None
        assert entry.expires_at == clock.time() + DEFAULT_TTL


def test_cleanup_leaves_only_what_keeps_a_late_delivery_from_firing_again(
    store: ResultBackend, clock: JumpingClock
) -> None:
    join = Join(store, "g", 10, clock, fanout=3)
    for index in range(10):
        join.arrive(index)
    join.fire(lambda: None)
    assert join.cleanup() == 10 + 4 + 2
    assert not any(list(store.keys(f"join/g/{level}-{shard}/")) for level in range(4) for shard in range(4))
    assert join.cleanup() == 0
    late = Join(store, "g", 10, clock, fanout=3)
    assert not late.arrive(0)
    assert not late.fire(lambda: pytest.fail("sent again"))


def test_cleanup_of_a_group_of_unknown_size_is_refused(store: ResultBackend, clock: JumpingClock) -> None:
    with pytest.raises(ValueError, match="close"):
        Join(store, "g", None, clock).cleanup()


def test_who_has_arrived_can_be_asked(store: ResultBackend, clock: JumpingClock) -> None:
    join = Join(store, "g", 7, clock, fanout=3)
    join.arrive(4)
    join.arrive(3)
    assert join.arrived(1) == [3, 4]


def test_a_foreign_size_is_refused_with_its_name(store: ResultBackend, clock: JumpingClock) -> None:
    store.write("join/g/size", b"many")
    with pytest.raises(CorruptRecord, match="join/g/size"):
        Join(store, "g", None, clock).arrive(0)


@pytest.mark.parametrize(("size", "fanout"), [(-1, 200), (3, 1)])
def test_impossible_shapes_are_refused(size: int, fanout: int, clock: JumpingClock) -> None:
    with pytest.raises(ValueError, match="join 'g'"):
        Join(MemoryStore(clock), "g", size, clock, fanout=fanout)


@pytest.mark.parametrize(
    ("size", "in_order", "calls", "listings"),
    [(10, True, 2.5, 2), (1000, True, 2.1, 20), (1000, False, 2.6, 600)],
)
def test_a_member_costs_two_calls_and_seldom_a_listing(
    size: int, in_order: bool, calls: float, listings: int, clock: JumpingClock
) -> None:
    counted = Counting(MemoryStore(clock))
    order = list(range(size)) if in_order else random.Random(1).sample(range(size), size)
    assert arrive_all(counted, clock, size, order)[-1]
    assert counted.calls.total() / size <= calls
    assert counted.calls["keys"] <= listings
    assert counted.calls["write"] == size + (size > FANOUT) * (size // FANOUT)


def test_a_worker_that_saw_who_is_missing_asks_for_those_instead_of_listing_again(
    clock: JumpingClock,
) -> None:
    counted = Counting(MemoryStore(clock))
    join = Join(counted, "g", 200, clock)
    for index in random.Random(1).sample(range(200), 200):
        join.arrive(index)
    assert counted.calls["keys"] < 15
