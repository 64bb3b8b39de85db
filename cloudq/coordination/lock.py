"""A lock for many machines: a lease with a fencing token, under one key of a results store.

Nobody can be stopped from believing in a lease that has run out (a paused process, a slow
clock), so every lease carries a number that grows with every holder: whatever the lock protects
should refuse a smaller number than the largest it has seen.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import msgspec

from cloudq import errors
from cloudq.backends.base import Entry, ResultBackend, check_key
from cloudq.clock import Clock
from cloudq.coordination import cas
from cloudq.errors import LeaseLost
from cloudq.retry import backoff

#: Seconds a lock's document outlives its last lease.
RETENTION: Final = 7 * 86_400.0
#: Seconds that two machines' clocks may differ: a lease is taken over only this much after its end.
CLOCK_SKEW: Final = 1.0


class _LockDocument(msgspec.Struct, frozen=True):
    fence: int
    holder: str  # the lease's own token; "" when released
    until: float
    nonce: str


@dataclass(frozen=True, slots=True)
class Lease:
    """Proof of holding a lock until ``until`` (seconds since the epoch)."""

    name: str
    token: str
    #: Grows with every new holder, across takeovers, releases and the document's own expiry.
    fence: int
    until: float
    _entry: Entry


class Lock:
    """The lock called ``name`` in ``store``; make as many of these objects as you like.

    ``name`` is part of a key (``lock/NAME``). One acquire is a read and a write, a renewal or a
    release one write.
    """

    def __init__(
        self,
        store: ResultBackend,
        name: str,
        clock: Clock,
        *,
        skew: float = CLOCK_SKEW,
        rand: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self._store = store
        self._clock = clock
        self._skew = skew
        self._rand = rand
        self._key = check_key(f"lock/{name}")

    def acquire(self, ttl: float) -> Lease | None:
        """Take the lock for ``ttl`` seconds, or return None when somebody holds it."""
        if ttl <= 0:
            raise ValueError(f"ttl is a positive number of seconds, got {ttl!r}")
        token = cas.nonce()

        def take(value: bytes | None) -> bytes | None:
            now = self._clock.time()
            if value is None:
                # The milliseconds are past any fence of a document that has expired meanwhile.
                return _encode(int(now * 1000), token, now + ttl)
            present = cas.decode(_LockDocument, self._key, value)
            if present.holder == token:  # an earlier try of this call got through after all
                return _encode(present.fence, token, now + ttl)
            if present.holder and present.until + self._skew > now:
                return None
            return _encode(present.fence + 1, token, now + ttl)

        done = self._update(take)
        return self._lease(done.entry) if done.written and done.entry is not None else None

    def renew(self, lease: Lease, ttl: float) -> Lease:
        """Hold on for ``ttl`` seconds from now. Raises LeaseLost when somebody took over.

        A lease that ran out may still be renewed as long as nobody else took the lock.
        """

        def extend(value: bytes | None) -> bytes | None:
            present = None if value is None else cas.decode(_LockDocument, self._key, value)
            if present is None or present.holder != lease.token:
                return None
            return _encode(present.fence, present.holder, self._clock.time() + ttl)

        done = self._update(extend, known=lease._entry)
        if not done.written or done.entry is None:
            raise LeaseLost(f"lock {self.name!r}: the lease (fence {lease.fence}) was taken over or released")
        return self._lease(done.entry)

    def release(self, lease: Lease) -> bool:
        """Give the lock back. False when it was no longer ours; then nothing is changed."""

        def free(value: bytes | None) -> bytes | None:
            present = None if value is None else cas.decode(_LockDocument, self._key, value)
            if present is None or present.holder != lease.token:
                return None
            return _encode(present.fence, "", self._clock.time())  # stays, for the fence's sake

        return self._update(free, known=lease._entry).written

    @contextmanager
    def hold(self, ttl: float, wait: float | None = None) -> Iterator[Lease]:
        """``with lock.hold(30, wait=10) as lease``: waits at most ``wait`` seconds (None: for ever).

        Raises TimeoutError when the lock could not be had in time. The lease is not renewed by
        itself: work that takes longer than ``ttl`` calls ``renew``.
        """
        lease = self._wait(ttl, wait)
        try:
            yield lease
        finally:
            self.release(lease)

    def _wait(self, ttl: float, wait: float | None) -> Lease:
        started = self._clock.monotonic()
        pauses = backoff(0.05, 2.0, self._rand)
        while True:
            lease = self.acquire(ttl)
            if lease is not None:
                return lease
            pause = next(pauses)
            if wait is not None:
                left = started + wait - self._clock.monotonic()
                if left <= 0:
                    raise errors.TimeoutError(f"lock {self.name!r} was not free within {wait:g} seconds")
                pause = min(pause, left)
            self._clock.sleep(pause)

    def _update(self, change: cas.Change, known: Entry | None = None) -> cas.Updated:
        return cas.update(
            self._store,
            self._key,
            change,
            clock=self._clock,
            expires_at=lambda value: cas.decode(_LockDocument, self._key, value).until + RETENTION,
            known=known or cas.UNREAD,
            unique=True,
            rand=self._rand,
        )

    def _lease(self, entry: Entry) -> Lease:
        document = cas.decode(_LockDocument, self._key, entry.value)
        return Lease(self.name, document.holder, document.fence, document.until, entry)


def _encode(fence: int, holder: str, until: float) -> bytes:
    return msgspec.json.encode(_LockDocument(fence, holder, until, cas.nonce()))
