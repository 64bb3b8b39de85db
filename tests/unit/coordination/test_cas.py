"""Read, change, write back: right under contention, lost replies and content-made versions."""

from __future__ import annotations

from random import Random

import msgspec
import pytest

from cloudq.backends.base import ABSENT, Entry, ResultBackend
from cloudq.coordination import cas
from cloudq.errors import CorruptRecord, ServiceUnavailable
from cloudq.testing.clock import JumpingClock
from cloudq.testing.stores import ContentVersions, Counting, Flaky, MemoryStore, SlowNames, Wrapper


class Meddling(Wrapper):
    """Somebody else writes right before each of our first writes."""

    def __init__(self, store: ResultBackend, values: list[bytes]) -> None:
        super().__init__(store)
        self.values = values

    def before(self, verb: str, key: str) -> None:
        if verb == "write" and self.values:
            self.inner.write(key, self.values.pop(0))


class LosingReplies(Wrapper):
    """The first ``times`` writes are done, but their caller sees an error."""

    def __init__(self, store: ResultBackend, times: int) -> None:
        super().__init__(store)
        self.times = times

    def after(self, verb: str, key: str) -> None:
        if verb == "write" and self.times:
            self.times -= 1
            raise ServiceUnavailable("lost")


def plus_one(value: bytes | None) -> bytes:
    return str(int(value or b"0") + 1).encode()


def plus_one_with_nonce(value: bytes | None) -> bytes:
    count = msgspec.json.decode(value)["count"] if value else 0
    return msgspec.json.encode({"count": count + 1, "nonce": cas.nonce()})


def test_the_first_update_creates_the_entry(store: ResultBackend, clock: JumpingClock) -> None:
    done = cas.update(store, "a/b", plus_one, clock=clock, expires_at=clock.time() + 60)
    assert done.written
    assert store.read("a/b") == done.entry
    assert done.entry is not None
    assert done.entry.expires_at == clock.time() + 60


def test_the_expiry_may_depend_on_what_is_written(store: ResultBackend, clock: JumpingClock) -> None:
    now = clock.time()
    cas.update(store, "a/b", lambda _: b"7", clock=clock, expires_at=lambda value: now + int(value))
    entry = store.read("a/b")
    assert entry is not None
    assert entry.expires_at == now + 7


def test_none_leaves_everything_as_it_is(store: ResultBackend, clock: JumpingClock) -> None:
    store.write("a/b", b"1")
    counted = Counting(store)
    done = cas.update(counted, "a/b", lambda value: None, clock=clock)
    assert not done.written
    assert done.entry is not None
    assert done.entry.value == b"1"
    assert counted.calls == {"read": 1}


def test_what_others_wrote_in_between_is_not_lost(store: ResultBackend, clock: JumpingClock) -> None:
    store.write("a/b", b"1")
    cas.update(Meddling(store, [b"10", b"20"]), "a/b", plus_one, clock=clock)
    assert store.read("a/b").value == b"21"  # type: ignore[union-attr]


def test_an_entry_that_appears_while_we_create_it_is_not_overwritten(
    store: ResultBackend, clock: JumpingClock
) -> None:
    cas.update(Meddling(store, [b"10"]), "a/b", plus_one, clock=clock)
    assert store.read("a/b").value == b"11"  # type: ignore[union-attr]


def test_a_value_that_went_away_and_came_back_is_what_the_change_saw(
    store: ResultBackend, clock: JumpingClock
) -> None:
    store.write("a/b", b"1")
    cas.update(Meddling(store, [b"1"]), "a/b", plus_one, clock=clock)
    assert store.read("a/b").value == b"2"  # type: ignore[union-attr]


def test_a_write_whose_reply_was_lost_counts_once_when_values_are_unique(
    store: ResultBackend, clock: JumpingClock
) -> None:
    for _ in range(5):
        done = cas.update(LosingReplies(store, 1), "a/b", plus_one_with_nonce, clock=clock, unique=True)
        assert done.written
    assert msgspec.json.decode(store.read("a/b").value)["count"] == 5  # type: ignore[union-attr]


def test_another_writers_equal_value_is_not_taken_for_our_own(
    store: ResultBackend, clock: JumpingClock
) -> None:
    # Both make 2 out of 1. Without a nonce the loop must not conclude that the 2 is its own.
    store.write("a/b", b"1")
    cas.update(Meddling(store, [b"2"]), "a/b", plus_one, clock=clock)
    assert store.read("a/b").value == b"3"  # type: ignore[union-attr]


def test_a_wrong_guess_costs_no_wait_and_a_right_one_no_read(
    store: ResultBackend, clock: JumpingClock
) -> None:
    counted, started = Counting(store), clock.time()
    cas.update(counted, "a/b", plus_one, clock=clock, guess_absent=True)
    assert counted.calls == {"write": 1}
    cas.update(counted, "a/b", plus_one, clock=clock, guess_absent=True)
    assert store.read("a/b").value == b"2"  # type: ignore[union-attr]
    assert clock.time() == started


def test_nothing_is_decided_on_a_guess(store: ResultBackend, clock: JumpingClock) -> None:
    store.write("a/b", b"1")
    only_if_there = lambda value: None if value is None else plus_one(value)  # noqa: E731
    assert cas.update(store, "a/b", only_if_there, clock=clock, guess_absent=True).written
    old = Entry(b"stop", store.write("a/c", b"stop"))
    store.write("a/c", b"1")
    unless_stopped = lambda value: None if value == b"stop" else plus_one(value)  # noqa: E731
    assert cas.update(store, "a/c", unless_stopped, clock=clock, known=old).written


def test_an_expired_entry_counts_as_nothing(store: ResultBackend, clock: JumpingClock) -> None:
    store.write("a/b", b"41", ABSENT, clock.time() + 10)
    clock.advance(11)
    cas.update(store, "a/b", plus_one, clock=clock)
    assert store.read("a/b").value == b"1"  # type: ignore[union-attr]


def test_it_gives_up_after_so_many_tries_and_says_on_what(store: ResultBackend, clock: JumpingClock) -> None:
    crowd = Meddling(store, [str(n).encode() for n in range(100)])
    with pytest.raises(ServiceUnavailable, match=r"'a/b' in memory://.*5 tries"):
        cas.update(crowd, "a/b", plus_one, clock=clock, attempts=5)
    assert len(crowd.values) == 95


def test_it_outlasts_a_store_that_takes_one_write_per_second(clock: JumpingClock) -> None:
    slow = SlowNames(MemoryStore(clock), clock)
    started = clock.time()
    for _ in range(5):
        cas.update(slow, "a/b", plus_one, clock=clock)
    assert slow.read("a/b").value == b"5"  # type: ignore[union-attr]
    assert slow.refused > 0
    assert clock.time() - started < 15


@pytest.mark.parametrize("seed", range(20))
def test_unique_updates_count_exactly_on_a_store_that_fails_every_third_time(
    seed: int, clock: JumpingClock
) -> None:
    rng = Random(seed)
    store = Flaky(ContentVersions(MemoryStore(clock)), rng, refused=0.2, lost=0.2)
    for _ in range(30):
        cas.update(store, "a/b", plus_one_with_nonce, clock=clock, unique=True, attempts=50, rand=rng.random)
    entry = store.inner.read("a/b")
    assert entry is not None
    assert msgspec.json.decode(entry.value)["count"] == 30


def test_ensure_writes_once_and_leaves_what_is_there(store: ResultBackend, clock: JumpingClock) -> None:
    assert cas.ensure(store, "a/b", b"1", clock=clock)
    assert not cas.ensure(store, "a/b", b"2", clock=clock)
    assert store.read("a/b").value == b"1"  # type: ignore[union-attr]


def test_ensure_reads_before_it_writes_again(clock: JumpingClock) -> None:
    counted = Counting(MemoryStore(clock))
    assert not cas.ensure(LosingReplies(counted, 1), "a/b", b"1", clock=clock)
    assert counted.calls == {"write": 1, "read": 1}


def test_ensure_raises_when_the_store_stays_away(clock: JumpingClock) -> None:
    with pytest.raises(ServiceUnavailable):
        cas.ensure(Flaky(MemoryStore(clock), Random(1), refused=1.0), "a/b", b"1", clock=clock, attempts=3)


def test_a_document_that_cannot_be_read_is_named(clock: JumpingClock) -> None:
    with pytest.raises(CorruptRecord, match="lock/x"):
        cas.decode(dict[str, int], "lock/x", b"{")
