"""Limits across workers: tokens per second, and holders at a time."""

from __future__ import annotations

from random import Random

import pytest

from cloudq.backends.base import ResultBackend
from cloudq.coordination.limits import MAX_SKEW, RETENTION, Slot, Slots, TokenBucket, parse_rate
from cloudq.coordination.lock import CLOCK_SKEW
from cloudq.errors import LeaseLost
from cloudq.testing.clock import JumpingClock
from cloudq.testing.stores import ContentVersions, Counting, Flaky, MemoryStore, SlowNames


class Ahead:
    """A machine whose wall clock is wrong by so many seconds."""

    def __init__(self, clock: JumpingClock, seconds: float) -> None:
        self._clock, self._seconds = clock, seconds
        self.monotonic, self.sleep, self.wait = clock.monotonic, clock.sleep, clock.wait

    def time(self) -> float:
        return self._clock.time() + self._seconds


# --- rates -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "per_second"),
    [
        ("10", 10),
        ("10/s", 10),
        ("90/m", 1.5),
        ("36/h", 0.01),
        ("864/d", 0.01),
        (" 2.5 / s ", 2.5),
        (3, 3),
        (0.5, 0.5),
    ],
)
def test_rates_are_read_in_celerys_notation(text: str | float, per_second: float) -> None:
    assert parse_rate(text) == pytest.approx(per_second)


@pytest.mark.parametrize(
    "text", ["", "fast", "10/x", "-1/s", "0/s", "1e3/s", "٣/s", 0, -1, float("nan"), float("inf")]
)
def test_what_is_no_rate_is_refused(text: str | float) -> None:
    with pytest.raises(ValueError, match="a rate is"):
        parse_rate(text)


# --- tokens ------------------------------------------------------------------------------------


def test_tokens_come_at_the_rate_and_the_wait_is_exact(store: ResultBackend, clock: JumpingClock) -> None:
    bucket = TokenBucket(store, "api", "2/s", clock)
    assert [bucket.take(), bucket.take()] == [0, 0]
    wait = bucket.take()
    assert wait == pytest.approx(0.5)
    clock.advance(wait)
    assert bucket.take() == 0
    assert bucket.take() > 0


def test_a_slow_limit_lets_one_go_at_a_time(store: ResultBackend, clock: JumpingClock) -> None:
    bucket = TokenBucket(store, "api", "6/m", clock)
    assert bucket.take() == 0
    assert bucket.take() == pytest.approx(10)
    clock.advance(9.9)
    assert bucket.take() == pytest.approx(0.1)
    clock.advance(0.1)
    assert bucket.take() == 0


def simulate(
    buckets: list[TokenBucket], clock: JumpingClock, seconds: float, seed: int, step: float = 0.01
) -> list[int]:
    """Workers that always have something to do; how many starts each got."""
    rng, got = Random(seed), [0] * len(buckets)
    ends = clock.monotonic() + seconds
    while clock.monotonic() < ends:
        for number in rng.sample(range(len(buckets)), len(buckets)):
            got[number] += buckets[number].take() == 0
        clock.advance(step)
    return got


@pytest.mark.parametrize("workers", [1, 5, 20])
def test_all_workers_together_keep_to_the_rate_and_use_it(
    workers: int, store: ResultBackend, clock: JumpingClock
) -> None:
    buckets = [TokenBucket(store, "api", "50/s", clock) for _ in range(workers)]
    got = sum(simulate(buckets, clock, 20, seed=workers))
    assert got <= 50 * 20 + 50  # one burst on top
    assert got >= 0.85 * 50 * 20


def test_a_busy_limit_costs_about_two_writes_per_block(clock: JumpingClock) -> None:
    counted = Counting(MemoryStore(clock))
    bucket = TokenBucket(counted, "api", "100/s", clock, burst=200, block=50)
    got = simulate([bucket], clock, 20, seed=1, step=0.005)[0]
    assert got > 1900
    assert counted.calls["write"] < 2.5 * got / 50
    assert counted.calls.total() < 4 * got / 50


def test_an_empty_bucket_is_not_asked_again_before_its_time(clock: JumpingClock) -> None:
    counted = Counting(MemoryStore(clock))
    bucket = TokenBucket(counted, "api", "1/m", clock)
    bucket.take()
    bucket.take()
    before = counted.calls.total()
    for _ in range(50):
        clock.advance(1)
        assert bucket.take() > 0
    assert counted.calls.total() == before


def test_tokens_in_hand_are_void_after_a_while(store: ResultBackend, clock: JumpingClock) -> None:
    hoarder = TokenBucket(store, "api", "10/s", clock)
    for _ in range(7):  # blocks of 1, 2, 4: all handed out
        assert hoarder.take() == 0
    clock.advance(10)
    assert hoarder.take() == 0  # a block of 8; 7 stay in hand
    clock.advance(10)
    other = TokenBucket(store, "api", "10/s", clock)
    got = sum(bucket.take() == 0 for bucket in [other] * 30 + [hoarder] * 30)
    assert got == 10


def test_several_tokens_are_granted_together_or_not_at_all(store: ResultBackend, clock: JumpingClock) -> None:
    bucket = TokenBucket(store, "api", "10/s", clock)
    assert bucket.take(8) == 0
    assert bucket.take(5) == pytest.approx(0.3)
    clock.advance(0.3)
    assert bucket.take(5) == 0
    with pytest.raises(ValueError, match="1 to 10 tokens"):
        bucket.take(11)


def test_clocks_that_differ_a_little_do_not_raise_the_rate(store: ResultBackend, clock: JumpingClock) -> None:
    skews = [-2.0, 0.0, 1.5, 3.0]
    buckets = [TokenBucket(store, "api", "20/s", Ahead(clock, skew)) for skew in skews]
    got = sum(simulate(buckets, clock, 30, seed=2))
    assert got <= 20 * (30 + max(skews) - min(skews)) + 20
    assert got >= 0.8 * 20 * 30


def test_a_clock_that_is_an_hour_ahead_does_not_raise_the_rate_nor_stop_the_others_for_good(
    store: ResultBackend, clock: JumpingClock
) -> None:
    wrong = TokenBucket(store, "api", "20/s", Ahead(clock, 3600.0))
    right = [TokenBucket(store, "api", "20/s", clock) for _ in range(3)]
    got = sum(simulate([wrong, *right], clock, 20, seed=3))
    assert got <= 20 * 20 + 2 * 20
    got = sum(simulate(right, clock, 20, seed=4))  # the wrong one is gone
    assert got >= 20 * (20 - 3 - MAX_SKEW)


def test_a_flaky_store_only_ever_lowers_the_rate(clock: JumpingClock) -> None:
    rng = Random(5)
    store = Flaky(ContentVersions(MemoryStore(clock)), rng, refused=0.1, lost=0.2)
    buckets = [TokenBucket(store, "api", "10/s", clock, rand=rng.random) for _ in range(3)]
    started = clock.monotonic()
    got = sum(simulate(buckets, clock, 30, seed=5))
    assert 0 < got <= 10 * (clock.monotonic() - started) + 10


def test_an_unused_limit_leaves_the_store(store: ResultBackend, clock: JumpingClock) -> None:
    TokenBucket(store, "api", "10/s", clock).take()
    clock.advance(RETENTION + 1)
    assert store.read("limit/api") is None


@pytest.mark.parametrize(("burst", "block"), [(0, 1), (5, 6), (5, 0)])
def test_impossible_blocks_are_refused(burst: int, block: int, clock: JumpingClock) -> None:
    with pytest.raises(ValueError, match="block"):
        TokenBucket(MemoryStore(clock), "api", 10, clock, burst=burst, block=block)


# --- slots -------------------------------------------------------------------------------------


def entered(slots: Slots, owner: str, ttl: float = 60) -> Slot:
    slot = slots.acquire(owner, ttl)
    assert slot is not None
    return slot


@pytest.mark.parametrize("limit", [1, 3, 20, 21, 50])
def test_no_more_than_the_limit_hold_a_place_and_no_place_stays_empty(
    limit: int, store: ResultBackend, clock: JumpingClock
) -> None:
    slots = Slots(store, "db", limit, clock)
    held = [entered(slots, f"w{number}") for number in range(limit)]
    assert slots.acquire("one more", 60) is None
    assert sorted(slots.holders()) == sorted(slot.owner for slot in held)
    assert slots.release(held[limit // 2])
    entered(slots, "one more")
    assert slots.acquire("and another", 60) is None


def test_the_dead_ones_place_is_taken_over_after_its_lease_and_the_clocks_skew(
    store: ResultBackend, clock: JumpingClock
) -> None:
    slots = Slots(store, "db", 1, clock)
    lost = entered(slots, "w1", 30)
    clock.advance(30 + CLOCK_SKEW / 2)
    assert slots.acquire("w2", 30) is None
    clock.advance(CLOCK_SKEW)
    entered(slots, "w2", 30)
    with pytest.raises(LeaseLost, match="w1"):
        slots.renew(lost, 30)
    assert not slots.release(lost)
    assert list(slots.holders()) == ["w2"]


def test_a_renewed_place_is_kept(store: ResultBackend, clock: JumpingClock) -> None:
    slots = Slots(store, "db", 1, clock)
    slot = entered(slots, "w1", 30)
    for _ in range(5):
        clock.advance(20)
        slot = slots.renew(slot, 30)
    assert slots.acquire("w2", 30) is None
    assert slot.until == clock.time() + 30


def test_one_holders_short_lease_does_not_shorten_anothers(store: ResultBackend, clock: JumpingClock) -> None:
    slots = Slots(store, "db", 2, clock)
    entered(slots, "long", 7 * 86_400)
    entered(slots, "short", 10)
    clock.advance(3 * 86_400)
    entered(slots, "next", 10)
    assert slots.acquire("one more", 10) is None


@pytest.mark.parametrize("limit", [2, 50])
def test_the_same_owner_asking_again_holds_one_place(
    limit: int, store: ResultBackend, clock: JumpingClock
) -> None:
    slots = Slots(store, "db", limit, clock)
    entered(slots, "w1", 10)
    clock.advance(5)
    assert entered(slots, "w1", 10).until == clock.time() + 10
    assert len(slots.holders()) == 1


def test_a_place_of_its_own_for_everyone_where_a_key_stands_one_write_per_second(clock: JumpingClock) -> None:
    store = SlowNames(MemoryStore(clock), clock)
    slots = Slots(store, "db", 5, clock)
    for number in range(5):
        entered(slots, f"w{number}")
    assert slots.acquire("one more", 60) is None
    assert store.refused == 0


def test_acquiring_costs_a_read_and_a_write_and_a_full_house_one_read(clock: JumpingClock) -> None:
    counted = Counting(MemoryStore(clock))
    slots = Slots(counted, "db", 40, clock)
    for number in range(40):
        entered(slots, f"w{number}")
    assert counted.calls == {"read_many": 40, "write": 40}
    slots.acquire("one more", 60)
    assert counted.calls == {"read_many": 41, "write": 40}


@pytest.mark.parametrize("seed", range(20))
def test_a_flaky_store_never_lets_one_too_many_in(seed: int, clock: JumpingClock) -> None:
    rng = Random(seed)
    memory = MemoryStore(clock)
    store = Flaky(ContentVersions(memory), rng, refused=0.1, lost=0.3)
    slots = Slots(store, "db", 3, clock, rand=rng.random)
    held: dict[str, Slot] = {}
    for step in range(60):
        owner = f"w{rng.randrange(8)}"
        if owner in held:
            assert slots.release(held.pop(owner)) in (True, False)
        else:
            slot = slots.acquire(owner, 100_000)
            if slot is not None:
                held[owner] = slot
        assert len(held) <= 3, step
        assert set(Slots(memory, "db", 3, clock).holders()) == set(held)


@pytest.mark.parametrize(("limit", "ttl"), [(0, 10), (1, 0)])
def test_impossible_slots_are_refused(limit: int, ttl: float, clock: JumpingClock) -> None:
    with pytest.raises(ValueError, match=r"slots|ttl"):
        Slots(MemoryStore(clock), "db", limit, clock).acquire("w", ttl)
