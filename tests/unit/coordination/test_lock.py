"""A lease lock with a fencing token that only ever grows."""

from __future__ import annotations

from random import Random

import pytest

from cloudq import errors
from cloudq.backends.base import ResultBackend
from cloudq.coordination.lock import CLOCK_SKEW, RETENTION, Lease, Lock
from cloudq.errors import CorruptRecord, LeaseLost
from cloudq.testing.clock import JumpingClock
from cloudq.testing.stores import (
    ContentVersions,
    Counting,
    Crashing,
    Flaky,
    MemoryStore,
    SimulatedCrash,
    at_step,
)


@pytest.fixture
def lock(store: ResultBackend, clock: JumpingClock) -> Lock:
    return Lock(store, "beat", clock)


def taken(lock: Lock, ttl: float = 30) -> Lease:
    lease = lock.acquire(ttl)
    assert lease is not None
    return lease


def test_only_one_holds_it(lock: Lock, clock: JumpingClock) -> None:
    lease = taken(lock)
    assert lease.until == clock.time() + 30
    assert lock.acquire(30) is None


def test_a_released_lock_is_free_at_once(lock: Lock) -> None:
    assert lock.release(taken(lock))
    taken(lock)


def test_an_expired_lease_is_taken_over_only_after_the_clocks_skew(lock: Lock, clock: JumpingClock) -> None:
    taken(lock, 30)
    clock.advance(30 + CLOCK_SKEW / 2)
    assert lock.acquire(30) is None
    clock.advance(CLOCK_SKEW)
    taken(lock)


def test_the_fence_grows_across_releases_takeovers_and_the_documents_own_expiry(
    lock: Lock, clock: JumpingClock
) -> None:
    fences = []
    for round_ in range(12):
        lease = taken(lock, 10)
        fences.append(lease.fence)
        if round_ % 3 == 0:
            lock.release(lease)
        elif round_ % 3 == 1:
            clock.advance(12)  # died: taken over
        else:
            clock.advance(RETENTION + 20)  # nobody used it for long: the document is gone
    assert fences == sorted(set(fences))


def test_renewing_keeps_the_fence_and_moves_the_end(lock: Lock, clock: JumpingClock) -> None:
    lease = taken(lock, 30)
    clock.advance(20)
    renewed = lock.renew(lease, 30)
    assert (renewed.fence, renewed.until) == (lease.fence, clock.time() + 30)
    clock.advance(20)
    assert lock.acquire(30) is None


def test_an_old_lease_object_still_renews_after_a_renewal(lock: Lock) -> None:
    first = taken(lock)
    lock.renew(first, 30)
    assert lock.renew(first, 30).fence == first.fence


def test_renewing_a_lost_lease_raises_and_changes_nothing(lock: Lock, clock: JumpingClock) -> None:
    lost = taken(lock, 10)
    clock.advance(20)
    other = taken(lock, 30)
    with pytest.raises(LeaseLost, match="beat"):
        lock.renew(lost, 30)
    assert not lock.release(lost)
    assert lock.acquire(30) is None
    assert lock.renew(other, 30).fence == other.fence


def test_a_lease_that_ran_out_unnoticed_may_be_renewed(lock: Lock, clock: JumpingClock) -> None:
    lease = taken(lock, 10)
    clock.advance(100)
    assert lock.renew(lease, 10).fence == lease.fence


def test_a_released_lease_cannot_be_renewed(lock: Lock) -> None:
    lease = taken(lock)
    lock.release(lease)
    with pytest.raises(LeaseLost):
        lock.renew(lease, 30)


def test_hold_waits_its_turn_and_gives_back_even_after_an_error(lock: Lock, clock: JumpingClock) -> None:
    lease = taken(lock, 5)
    with pytest.raises(KeyError), lock.hold(30, wait=60) as mine:
        assert mine.fence > lease.fence
        raise KeyError("boom")
    taken(lock)


def test_hold_gives_up_after_its_wait(lock: Lock, clock: JumpingClock) -> None:
    taken(lock, 1000)
    started = clock.monotonic()
    with (
        pytest.raises(errors.TimeoutError, match="'beat' was not free within 7 seconds"),
        lock.hold(30, wait=7),
    ):
        raise AssertionError("not reached")
    assert clock.monotonic() - started == pytest.approx(7, abs=0.1)


def test_hold_without_patience_tries_once(lock: Lock) -> None:
    with lock.hold(30, wait=0), pytest.raises(errors.TimeoutError), lock.hold(30, wait=0):
        raise AssertionError("not reached")


def test_locks_of_different_names_do_not_meet(store: ResultBackend, clock: JumpingClock) -> None:
    taken(Lock(store, "a", clock))
    taken(Lock(store, "b", clock))


def test_a_renewal_and_a_release_cost_one_call_each(clock: JumpingClock) -> None:
    counted = Counting(MemoryStore(clock))
    lock = Lock(counted, "beat", clock)
    lease = taken(lock)
    assert counted.calls == {"read": 1, "write": 1}
    lock.release(lock.renew(lease, 30))
    assert counted.calls == {"read": 1, "write": 3}


@pytest.mark.parametrize("seed", range(20))
def test_an_acquire_whose_reply_was_lost_is_still_ours(seed: int, clock: JumpingClock) -> None:
    rng = Random(seed)
    flaky = Flaky(ContentVersions(MemoryStore(clock)), rng, refused=0.2, lost=0.3)
    lock = Lock(flaky, "beat", clock, rand=rng.random)
    fences = []
    for _ in range(10):
        lease = taken(lock, 60)
        lease = lock.renew(lease, 60)
        fences.append(lease.fence)
        assert lock.release(lease)
    assert fences == sorted(set(fences))


@pytest.mark.parametrize("step", range(1, 5))
def test_a_holder_that_dies_anywhere_is_taken_over_with_a_higher_fence(
    step: int, clock: JumpingClock
) -> None:
    store = MemoryStore(clock)
    first = taken(Lock(store, "beat", clock), 10)
    clock.advance(20)
    with pytest.raises(SimulatedCrash):
        Lock(Crashing(store, at_step(step)), "beat", clock).acquire(10)
    clock.advance(20)
    assert taken(Lock(store, "beat", clock)).fence > first.fence


def test_a_foreign_document_is_refused_with_its_name(store: ResultBackend, clock: JumpingClock) -> None:
    store.write("lock/beat", b"hello")
    with pytest.raises(CorruptRecord, match="lock/beat"):
        Lock(store, "beat", clock).acquire(10)


def test_a_time_to_live_must_be_positive(lock: Lock) -> None:
    with pytest.raises(ValueError, match="ttl"):
        lock.acquire(0)
