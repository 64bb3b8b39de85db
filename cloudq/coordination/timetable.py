"""When to come back: moments in a row, handed out to everyone who waits for the same limit.

Ten thousand messages that a limit turns away must not all come back a minute later, be turned away
again, and so for ever. Each books a moment of its own instead, one after the other at the pace of
the limit, and is left alone till then. A booking is an estimate, not a right: what may start is for the
limit to say when the message is back.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from cloudq.backends.base import ResultBackend, check_key
from cloudq.clock import Clock
from cloudq.coordination import cas

#: Most moments booked by one write. What is left of a block when no more is booked stays unused.
MAX_BLOCK: Final = 16
#: The same on stores that allow one write per second and key.
MAX_BLOCK_SLOW: Final = 256
#: Nothing is booked further ahead than this (seconds): by then the estimate is worth nothing.
HORIZON: Final = 12 * 3600.0
#: Seconds the document outlives its last moment.
RETENTION: Final = 3600.0


class _TimetableDocument(msgspec.Struct, frozen=True):
    #: The last moment that was given away, seconds since the epoch.
    last: float
    nonce: str


class Timetable:
    """The timetable called ``name`` (part of a key). Any number of threads may share one object.

    A busy one costs a write per ``MAX_BLOCK`` bookings.
    """

    def __init__(
        self,
        store: ResultBackend,
        name: str,
        clock: Clock,
        *,
        rand: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._clock = clock
        self._rand = rand
        self._key = check_key(f"timetable/{name}")
        self._mutex = threading.Lock()
        self._mine: deque[float] = deque()
        self._block = 1
        self._most = MAX_BLOCK if store.capabilities.writes_per_key is None else MAX_BLOCK_SLOW

    def book(self, spacing: float) -> float:
        """A moment (seconds since the epoch), ``spacing`` seconds after the last one given away."""
        if spacing <= 0:
            raise ValueError(f"spacing is a positive number of seconds, got {spacing!r}")
        with self._mutex:
            now = self._clock.time()
            while self._mine and self._mine[0] <= now:
                self._mine.popleft()  # nobody came for it in time
                self._block = 1
            if not self._mine:
                self._lease(spacing)
                self._block = min(self._most, 2 * self._block)
            return self._mine.popleft()

    def _lease(self, spacing: float) -> None:
        first = 0.0

        def take(value: bytes | None) -> bytes | None:
            nonlocal first
            now = self._clock.time()
            last = now if value is None else cas.decode(_TimetableDocument, self._key, value).last
            if last > now + HORIZON:  # too far ahead, or written by a clock that was wrong
                last = now + HORIZON * self._rand()
            first = max(now, last) + spacing
            return msgspec.json.encode(_TimetableDocument(first + (self._block - 1) * spacing, cas.nonce()))

        cas.update(
            self._store,
            self._key,
            take,
            clock=self._clock,
            expires_at=lambda value: cas.decode(_TimetableDocument, self._key, value).last + RETENTION,
            unique=True,
            rand=self._rand,
        )
        self._mine.extend(first + number * spacing for number in range(self._block))
