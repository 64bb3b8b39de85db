"""Limits that hold across all workers: so many starts per second, so many at a time.

Neither blocks: ``TokenBucket.take`` says how many seconds to wait (a worker gives the message
back with that delay), ``Slots.acquire`` says None.
"""

from __future__ import annotations

import hashlib
import math
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from cloudq.backends.base import Entry, ResultBackend, check_key
from cloudq.clock import Clock
from cloudq.coordination import cas
from cloudq.coordination.lock import CLOCK_SKEW
from cloudq.errors import LeaseLost
from cloudq.rates import parse_rate

#: Seconds a limit's document outlives its last use.
RETENTION: Final = 86_400.0
#: Seconds by which a worker's clock may be wrong before a limit stops believing the document.
MAX_SKEW: Final = 5.0
#: Holders per document of ``Slots``, where one key may be written as often as one likes.
HOLDERS_PER_DOCUMENT: Final = 20

__all__ = ["Slot", "Slots", "TokenBucket", "parse_rate"]


class _BucketDocument(msgspec.Struct, frozen=True):
    #: When the bucket will be full again: later than now by what was taken out of it.
    full_at: float
    nonce: str


class TokenBucket:
    """At most ``rate`` tokens per second (and ``burst`` at once) for everyone who shares ``name``.

    A worker leases tokens from the store in blocks and hands them out by itself. Its blocks double up
    to ``block`` while they are used up in time and shrink when they are not, so a busy limit
    costs one or two writes per ``block`` tokens and a quiet one wastes few. Tokens in hand are void after
    the time in which the bucket fills once, and lost when the worker dies: the limit errs on
    the low side. While the bucket is known to be empty the store is not asked. ``burst`` and
    ``block`` are a second's worth by default; a store that allows one write per second and key wants a
    few seconds' worth. ``attempts`` is how often the store is tried (12 wait 8 s in all).

    Any number of threads may share one object. A worker whose clock is ahead is served
    before the others, but all of them together get no more than the rate. When a document is further
    ahead than ``MAX_SKEW`` and nobody moves it, the clock that wrote it is disbelieved.
    """

    def __init__(
        self,
        store: ResultBackend,
        name: str,
        rate: str | float,
        clock: Clock,
        *,
        burst: int | None = None,
        block: int | None = None,
        attempts: int = cas.ATTEMPTS,
        rand: Callable[[], float] = random.random,
    ) -> None:
        self.rate = parse_rate(rate)
        self.burst = max(1, math.ceil(self.rate)) if burst is None else burst
        self.block = min(self.burst, max(1, int(self.rate))) if block is None else block
        if not 1 <= self.block <= self.burst:
            raise ValueError(f"limit {name!r}: 1 <= block ({self.block}) <= burst ({self.burst})")
        self.name = name
        self._store = store
        self._clock = clock
        self._attempts = attempts
        self._rand = rand
        self._key = check_key(f"limit/{name}")
        self._mutex = threading.Lock()
        self._hand = 0
        self._void_at = 0.0  # monotonic: when the tokens in hand are no longer good
        self._empty_until = 0.0  # monotonic: no sense in asking before
        self._known: Entry | None = None
        self._next = 1  # the size of the next block
        self._odd = ""  # the nonce of a document that claims to come from the future
        self._odd_until = 0.0  # monotonic: till then it may be that its writer is at work

    def take(self, tokens: int = 1) -> float:
        """0.0 when granted; otherwise nothing was taken, and so many seconds remain till it may be.

        Raises ValueError for more than ``burst`` tokens: they would never be granted.
        """
        if not 1 <= tokens <= self.burst:
            raise ValueError(f"limit {self.name!r}: 1 to {self.burst} tokens at once, got {tokens}")
        with self._mutex:
            now = self._clock.monotonic()
            if now >= self._void_at and self._hand:
                self._hand = 0
                self._next = max(1, self._next // 2)
            if self._hand < tokens:
                if now < self._empty_until:
                    return self._empty_until - now
                wait = self._refill(tokens - self._hand)
                if wait > 0:
                    self._empty_until = now + wait
                    return wait
            self._hand -= tokens
            return 0.0

    def _refill(self, needed: int) -> float:
        """Lease a block, or at least ``needed`` tokens; seconds to wait when there are fewer."""
        granted, wait = 0, 0.0
        window = self.burst / self.rate

        def lease(value: bytes | None) -> bytes | None:
            nonlocal granted, wait
            now = self._clock.time()
            full_at = self._full_at(value, now)
            if full_at is None:
                granted, wait = 0, window
                return None
            spare = now + window - full_at
            # The millionth keeps what is exactly due from falling short by a rounding error.
            available = math.floor(spare * self.rate + 1e-6)
            if available < needed:
                granted, wait = 0, needed / self.rate - spare
                return None
            granted, wait = max(needed, min(self._next, available)), 0.0
            return msgspec.json.encode(_BucketDocument(full_at + granted / self.rate, cas.nonce()))

        done = cas.update(
            self._store,
            self._key,
            lease,
            clock=self._clock,
            expires_at=lambda value: cas.decode(_BucketDocument, self._key, value).full_at + RETENTION,
            attempts=self._attempts,
            known=self._known or cas.UNREAD,
            unique=True,
            rand=self._rand,
        )
        self._known = done.entry
        if not granted:
            self._next = max(1, self._next // 2)
            return wait
        now = self._clock.monotonic()
        self._hand += granted
        self._void_at = now + window
        if granted < self._next:
            # That was the last of it. Coming back for each single token would cost a write each,
            # so half a block gathers first; whoever is crowded out asks for smaller and smaller ones.
            self._empty_until = now + max(1, self._next // 2) / self.rate
        else:
            self._next = min(self.block, 2 * self._next)
        return 0.0

    def _full_at(self, value: bytes | None, now: float) -> float | None:
        """When the bucket will be full (now, if it is), or None when the document is beyond belief.

        Beyond belief is what no clock that is right within MAX_SKEW can have written. It is left alone
        at first: whoever wrote it keeps to the rate among his like. Seen unchanged after the time in
        which the bucket fills, it stands for nothing any more.
        """
        if value is None:
            return now
        document = cas.decode(_BucketDocument, self._key, value)
        if document.full_at <= now + self.burst / self.rate + MAX_SKEW:
            return max(now, document.full_at)
        if document.nonce == self._odd and self._clock.monotonic() >= self._odd_until:
            return now
        if document.nonce != self._odd:
            self._odd, self._odd_until = document.nonce, self._clock.monotonic() + self.burst / self.rate
        return None


class _SlotsDocument(msgspec.Struct, frozen=True):
    holders: dict[str, float]  # who, and until when
    nonce: str


@dataclass(frozen=True, slots=True)
class Slot:
    """One of the places, held until ``until`` (seconds since the epoch)."""

    owner: str
    until: float
    _key: str


class Slots:
    """At most ``limit`` holders at a time of everyone who shares ``name``.

    A place is a lease: who dies with it loses it after its time. The places are split over several
    documents so that no key is written by everybody; where a store allows one write per second and key,
    each place has its own. Acquiring costs a read and a write, a full house one read per document (one
    per ``batch_read`` of them). ``limit`` is part of the layout: while it is being changed, both
    numbers are in force for their own callers.
    """

    def __init__(
        self,
        store: ResultBackend,
        name: str,
        limit: int,
        clock: Clock,
        *,
        skew: float = CLOCK_SKEW,
        rand: Callable[[], float] = random.random,
    ) -> None:
        if limit < 1:
            raise ValueError(f"slots {name!r}: the limit is 1 or more, got {limit}")
        self.name = name
        self.limit = limit
        self._store = store
        self._clock = clock
        self._skew = skew
        self._rand = rand
        slow = store.capabilities.writes_per_key is not None
        self._documents = limit if slow else math.ceil(limit / HOLDERS_PER_DOCUMENT)
        check_key(self._key(self._documents))

    def acquire(self, owner: str, ttl: float) -> Slot | None:
        """A place for ``ttl`` seconds, or None when all are taken.

        ``owner`` names one holder (one delivery): asking again, after a lost reply say, gives the
        same place, unless an earlier document has a free one by now; then the old one runs out.
        """
        if ttl <= 0:
            raise ValueError(f"ttl is a positive number of seconds, got {ttl!r}")
        for batch in self._batches(owner):
            found = self._read(batch)
            mine = [number for number, (holders, _) in found.items() if owner in holders]
            free = [n for n, (holders, _) in found.items() if len(holders) < self._capacity(n)]
            for number in mine or free:
                slot = self._enter(number, owner, ttl, found[number][1])
                if slot is not None:
                    return slot
        return None

    def renew(self, slot: Slot, ttl: float) -> Slot:
        """Keep the place for ``ttl`` seconds from now. Raises LeaseLost when it was given away."""
        until = 0.0

        def extend(value: bytes | None) -> bytes | None:
            nonlocal until
            holders = self._holders(slot._key, value)
            if slot.owner not in holders:
                return None
            until = self._clock.time() + ttl
            return _encode_slots({**holders, slot.owner: until})

        if not self._update(slot._key, extend).written:
            raise LeaseLost(f"slots {self.name!r}: the place of {slot.owner!r} was given to somebody else")
        return Slot(slot.owner, until, slot._key)

    def release(self, slot: Slot) -> bool:
        """Give the place back. False when it was no longer ours."""

        def leave(value: bytes | None) -> bytes | None:
            holders = self._holders(slot._key, value)
            if holders.pop(slot.owner, None) is None:
                return None
            return _encode_slots(holders)

        return self._update(slot._key, leave).written

    def holders(self) -> dict[str, float]:
        """Who holds a place, and until when: for people."""
        now = self._clock.time()
        found = [self._read(batch) for batch in self._batches("")]
        pairs = (pair for batch in found for holders, _ in batch.values() for pair in holders.items())
        return {owner: until for owner, until in pairs if until > now}

    def _enter(self, number: int, owner: str, ttl: float, known: Entry | None) -> Slot | None:
        until = 0.0
        key = self._key(number)

        def take(value: bytes | None) -> bytes | None:
            nonlocal until
            alive = self._living(key, value)
            if owner not in alive and len(alive) >= self._capacity(number):
                return None
            until = self._clock.time() + ttl
            return _encode_slots({**alive, owner: until})

        done = self._update(key, take, known=known, guess_absent=known is None)
        return Slot(owner, until, key) if done.written else None

    def _read(self, numbers: list[int]) -> dict[int, tuple[dict[str, float], Entry | None]]:
        """Living holders and entry of these documents."""
        keys = [self._key(number) for number in numbers]
        entries = cas.patiently(lambda: self._store.read_many(keys), clock=self._clock, rand=self._rand)
        found: dict[int, tuple[dict[str, float], Entry | None]] = {}
        for number, key in zip(numbers, keys, strict=True):
            entry = entries.get(key)
            found[number] = self._living(key, None if entry is None else entry.value), entry
        return found

    def _batches(self, owner: str) -> Iterator[list[int]]:
        """The documents' numbers from the owner's home on, as many at a time as one call reads."""
        home = int.from_bytes(hashlib.sha256(owner.encode("utf-8", "surrogatepass")).digest()[:8], "big")
        numbers = [(home + step) % self._documents for step in range(self._documents)]
        size = max(1, self._store.capabilities.batch_read)
        for start in range(0, len(numbers), size):
            yield numbers[start : start + size]

    def _capacity(self, number: int) -> int:
        whole, rest = divmod(self.limit, self._documents)
        return whole + (number < rest)

    def _key(self, number: int) -> str:
        return f"slots/{self.name}/{self.limit}/{number}"

    def _holders(self, key: str, value: bytes | None) -> dict[str, float]:
        return {} if value is None else dict(cas.decode(_SlotsDocument, key, value).holders)

    def _living(self, key: str, value: bytes | None) -> dict[str, float]:
        now = self._clock.time()
        return {who: end for who, end in self._holders(key, value).items() if end + self._skew > now}

    def _update(
        self, key: str, change: cas.Change, known: Entry | None = None, guess_absent: bool = False
    ) -> cas.Updated:
        def last_end(value: bytes) -> float:
            ends = cas.decode(_SlotsDocument, key, value).holders.values()
            return max(ends, default=self._clock.time()) + RETENTION

        return cas.update(
            self._store,
            key,
            change,
            clock=self._clock,
            expires_at=last_end,
            known=known or cas.UNREAD,
            guess_absent=guess_absent,
            unique=True,
            rand=self._rand,
        )


def _encode_slots(holders: dict[str, float]) -> bytes:
    return msgspec.json.encode(_SlotsDocument(holders, cas.nonce()))
