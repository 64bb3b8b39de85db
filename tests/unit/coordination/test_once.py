"""Idempotency: claimed, running or done; never "somebody had it, forget it"."""

from __future__ import annotations

from random import Random

import pytest

from cloudq.backends.base import ResultBackend
from cloudq.coordination.lock import CLOCK_SKEW
from cloudq.coordination.once import Claimed, Done, Once, Running, Token
from cloudq.errors import LeaseLost, ServiceUnavailable
from cloudq.testing.clock import JumpingClock
from cloudq.testing.stores import (
    ContentVersions,
    Counting,
    Crashing,
    Flaky,
    MemoryStore,
    SimulatedCrash,
    Wrapper,
    at_step,
)


@pytest.fixture
def once(store: ResultBackend, clock: JumpingClock) -> Once:
    return Once(store, clock)


def claimed(once: Once, owner: str, lease: float = 60, key: str = "order 7") -> Token:
    claim = once.claim(key, owner, lease)
    assert isinstance(claim, Claimed)
    return claim.token


def test_the_first_gets_the_work_and_the_second_is_told_who_runs_it(once: Once, clock: JumpingClock) -> None:
    token = claimed(once, "w1", 60)
    assert once.claim("order 7", "w2", 60) == Running(clock.time() + 60, "w1")
    assert token.until == clock.time() + 60


def test_everyone_who_comes_after_gets_the_record_byte_for_byte(once: Once) -> None:
    record = b"\x00line one\nline two\n{}"
    assert once.finish(claimed(once, "w1"), record) == Done(record, mine=True)
    assert once.claim("order 7", "w2", 60) == Done(record)
    assert once.claim("order 7", "w1", 60) == Done(record)


def test_an_empty_record_is_a_record(once: Once) -> None:
    once.finish(claimed(once, "w1"), b"")
    assert once.claim("order 7", "w2", 60) == Done(b"")


def test_the_same_owner_asking_again_gets_its_own_claim(once: Once, clock: JumpingClock) -> None:
    first = claimed(once, "w1", 60)
    clock.advance(10)
    again = claimed(once, "w1", 60)
    assert again.turn == first.turn
    assert again.until == clock.time() + 60
    assert once.finish(first, b"r").mine  # type: ignore[union-attr]


def test_a_dead_claim_is_taken_over_after_its_lease_and_the_clocks_skew(
    once: Once, clock: JumpingClock
) -> None:
    claimed(once, "w1", 60)
    clock.advance(60 + CLOCK_SKEW / 2)
    assert isinstance(once.claim("order 7", "w2", 60), Running)
    clock.advance(CLOCK_SKEW)
    assert claimed(once, "w2").turn == 2


def test_finishing_after_a_takeover_is_refused_while_the_other_runs(once: Once, clock: JumpingClock) -> None:
    late = claimed(once, "w1", 10)
    clock.advance(20)
    token = claimed(once, "w2", 60)
    assert once.finish(late, b"late") == Running(clock.time() + 60, "w2")
    assert once.finish(token, b"good") == Done(b"good", mine=True)
    assert once.finish(late, b"late") == Done(b"good", mine=False)


def test_finishing_with_a_dead_lease_counts_when_nobody_took_over(once: Once, clock: JumpingClock) -> None:
    token = claimed(once, "w1", 10)
    clock.advance(1000)
    assert once.finish(token, b"r") == Done(b"r", mine=True)


def test_finished_work_is_recorded_even_when_the_one_who_took_over_gave_up(
    once: Once, clock: JumpingClock
) -> None:
    slow = claimed(once, "w1", 10)
    clock.advance(20)
    once.abandon(claimed(once, "w2", 60))
    assert once.finish(slow, b"r") == Done(b"r", mine=True)


def test_finishing_twice_keeps_the_first_record(once: Once) -> None:
    token = claimed(once, "w1")
    once.finish(token, b"one")
    assert once.finish(token, b"two") == Done(b"one", mine=True)


def test_an_abandoned_claim_is_free_at_once(once: Once) -> None:
    assert once.abandon(claimed(once, "w1"))
    claimed(once, "w2")


def test_abandoning_what_is_not_ours_changes_nothing(once: Once, clock: JumpingClock) -> None:
    late = claimed(once, "w1", 10)
    clock.advance(20)
    token = claimed(once, "w2", 60)
    assert not once.abandon(late)
    once.finish(token, b"r")
    assert not once.abandon(token)
    assert once.claim("order 7", "w3", 60) == Done(b"r")


def test_a_renewed_claim_can_be_finished_or_abandoned_with_any_of_its_tokens(
    once: Once, clock: JumpingClock
) -> None:
    first = claimed(once, "w1", 30)
    clock.advance(20)
    assert once.renew(first, 30).until == clock.time() + 30
    clock.advance(20)
    assert isinstance(once.claim("order 7", "w2", 60), Running)
    assert once.abandon(first)
    token = claimed(once, "w1", 30)
    once.renew(token, 30)
    assert once.finish(token, b"r") == Done(b"r", mine=True)


def test_a_lost_or_finished_claim_cannot_be_renewed(once: Once, clock: JumpingClock) -> None:
    late = claimed(once, "w1", 10)
    clock.advance(20)
    token = claimed(once, "w2", 60)
    with pytest.raises(LeaseLost, match="order 7"):
        once.renew(late, 10)
    once.finish(token, b"r")
    with pytest.raises(LeaseLost):
        once.renew(token, 10)


def test_a_record_expires_when_it_was_told_to(once: Once, clock: JumpingClock) -> None:
    once.finish(claimed(once, "w1"), b"r", expires_at=clock.time() + 100)
    clock.advance(99)
    assert isinstance(once.claim("order 7", "w2", 60), Done)
    clock.advance(2)
    claimed(once, "w2")


def test_a_record_without_expiry_stays(once: Once, clock: JumpingClock) -> None:
    once.finish(claimed(once, "w1"), b"r")
    clock.advance(10 * 365 * 86_400)
    assert once.claim("order 7", "w2", 60) == Done(b"r")


@pytest.mark.parametrize("key", ["a//b", "..", "", "ü" * 2000, "\ud800", "with space"])
def test_any_text_is_a_key(key: str, once: Once) -> None:
    once.finish(claimed(once, "w1", key=key), b"r")
    assert once.claim(key, "w2", 60) == Done(b"r")


def test_a_first_run_costs_two_writes_and_a_repeated_one_a_single_call(clock: JumpingClock) -> None:
    counted = Counting(MemoryStore(clock, conflict_has_entry=True))
    once = Once(counted, clock)
    once.finish(claimed(once, "w1"), b"r")
    assert counted.calls == {"write": 2}
    once.claim("order 7", "w2", 60)
    assert counted.calls == {"write": 3}


class LosingReplies(Wrapper):
    def __init__(self, store: ResultBackend) -> None:
        super().__init__(store)
        self.losing = False

    def after(self, verb: str, key: str) -> None:
        if verb == "write" and self.losing:
            self.losing = False
            raise ServiceUnavailable("lost")


def test_a_claim_or_a_finish_whose_reply_was_lost_is_known_again(
    store: ResultBackend, clock: JumpingClock
) -> None:
    losing = LosingReplies(store)
    once = Once(losing, clock)
    losing.losing = True
    token = claimed(once, "w1")
    losing.losing = True
    assert once.finish(token, b"r") == Done(b"r", mine=True)


def test_work_runs_to_a_record_wherever_its_runner_dies(clock: JumpingClock) -> None:
    crashes = 0
    for step in range(1, 12):
        store = ContentVersions(MemoryStore(clock))
        runs = []
        for attempt in range(5):
            once = Once(Crashing(store, at_step(step if attempt == 0 else 0)), clock)
            try:
                claim = once.claim("k", f"w{attempt}", 10)
                if isinstance(claim, Claimed):
                    runs.append(attempt)
                    once.finish(claim.token, f"by {attempt}".encode())
            except SimulatedCrash:
                crashes += 1
            clock.advance(12)
        final = Once(store, clock).claim("k", "last", 10)
        assert isinstance(final, Done)
        assert final.record.startswith(b"by")
        assert len(runs) <= 2
    assert crashes >= 4


@pytest.mark.parametrize("seed", range(30))
def test_two_finishers_never_both_win(seed: int, clock: JumpingClock) -> None:
    rng = Random(seed)
    once = Once(
        Flaky(ContentVersions(MemoryStore(clock)), rng, refused=0.15, lost=0.25), clock, rand=rng.random
    )
    late = claimed(once, "w1", 10)
    clock.advance(120)
    token = claimed(once, "w2", 10_000)
    order = [(late, b"1"), (token, b"2")]
    rng.shuffle(order)
    answers = [once.finish(who, record) for who, record in order]
    assert sum(isinstance(answer, Done) and answer.mine for answer in answers) == 1
    assert once.claim("order 7", "w3", 10) == Done(b"2")


def test_a_lease_must_be_positive(once: Once) -> None:
    with pytest.raises(ValueError, match="lease_seconds"):
        once.claim("k", "w", 0)
