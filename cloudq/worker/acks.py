"""Acknowledgements that wait for company: ten cost what one does, and several calls in a row one handover.

Whoever hands one in takes no lock and wakes nobody, but for the first that waits. What waits goes after
``LINGER`` seconds, or when it is ``MANY``.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final

from cloudq.brokers.base import Delivery, is_fifo
from cloudq.worker.credit import NEAR

#: Seconds that an acknowledgement waits for company.
LINGER: Final = 0.005
BATCH: Final = 10
#: So many of a queue are seen to at once.
MANY: Final = 40
#: While so many wait or are under way, one thread alone falls behind; but not where a call takes less than ``NEAR``:
#: there, more threads would only wait for the interpreter's lock.
BEHIND: Final = 60
#: So many may wait or be under way before the places of those that come then stay taken until they are through: a
#: worker whose acknowledgements fail must not go on receiving, or it would end up holding more than it can renew.
CROWD: Final = 200


class Line:
    """What waits to be acknowledged on one queue."""

    __slots__ = ("fifo", "queue", "since", "waiting")

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self.fifo = is_fifo(queue)  # the next of a group waits for its deletion
        self.waiting: deque[Delivery] = deque()
        #: Since when the first of it waits; inf: somebody was called for it; None: nothing waits.
        self.since: float | None = None


class Acks:
    """Collects acknowledgements; several threads ``call`` for batches and report them ``done``."""

    def __init__(self, helpers: int) -> None:
        self._helpers = helpers
        self._lines: dict[str, Line] = {}
        self._lock = threading.Lock()
        #: Wakes who looks at the clock for what waits; ``_unwatched``: nothing does, or somebody was called for it.
        self._lingering = threading.Condition(self._lock)
        self._unwatched = False
        self._calls: SimpleQueue[Line | None] = SimpleQueue()
        #: Numbers what is handed in, without a lock; how many are under way, and through.
        self._numbers = itertools.count()
        self._flying = 0
        self._through = 0
        #: Seconds that a call takes.
        self._trip = 0.0
        #: Receipt -> whom to tell that its place is free.
        self._owed: dict[str, Callable[[], None]] = {}
        self._urgent = False
        self._closed = False

    def add(self, delivery: Delivery, free: Callable[[], None]) -> bool:
        """Hand in. True when its place stays taken: ``free`` is returned by ``done`` once it is through."""
        queue = delivery.queue
        line = self._lines.get(queue)
        if line is None:
            line = self._lines.setdefault(queue, Line(queue))
        crowded = next(self._numbers) - self._through >= CROWD
        if crowded:
            self._owed[delivery.receipt] = free
        line.waiting.append(delivery)
        # Read after it was added: whoever takes the last one says so, and then looks once more.
        if line.since is None:
            self._notice(line)
        elif len(line.waiting) == MANY:
            self._calls.put(line)
        return crowded

    def busy(self) -> bool:
        """Does anything wait, or is it under way?"""
        with self._lock:  # what is taken is for a moment neither
            return self._flying > 0 or any(line.waiting for line in tuple(self._lines.values()))

    def hurry(self, urgent: bool) -> None:
        """Nothing waits for company, until told otherwise."""
        with self._lock:
            self._urgent = urgent
            self._lingering.notify()

    def close(self) -> None:
        """What waits is called for once more; then those who wait for calls are sent home."""
        with self._lock:
            self._closed = True
            self._lingering.notify()

    # --- for those who acknowledge ----------------------------------------------------------------

    def call(self) -> Line | None:
        """Wait until there is something to do on a queue; None at the end."""
        return self._calls.get()

    def take(self, line: Line, again: bool) -> list[Delivery]:
        """A batch of what waits there. ``again``: after another batch; then what is no full one is left to wait."""
        waiting = line.waiting
        with self._lock:
            if again and len(waiting) < BATCH and not (self._urgent or line.fifo):
                return []
            taken = [waiting.popleft() for _ in range(min(BATCH, len(waiting)))]
            self._flying += len(taken)
            line.since = None
            if waiting:  # some is left, or was added just before we said so
                line.since = time.monotonic()
                self._watch()
                if len(waiting) >= BATCH and len(waiting) + self._flying > BEHIND and self._trip >= NEAR:
                    self._calls.put(line)
            return taken

    def done(self, deliveries: list[Delivery], seconds: float) -> list[Callable[[], None]]:
        """These are through, which took so long. Whom to tell that a place is free."""
        with self._lock:
            self._trip += (seconds - self._trip) * 0.2
            self._flying -= len(deliveries)
            self._through += len(deliveries)
            if not self._owed:
                return []
            return [self._owed.pop(each.receipt) for each in deliveries if each.receipt in self._owed]

    # --- company ------------------------------------------------------------------------------

    def _notice(self, line: Line) -> None:
        """The first has come."""
        with self._lock:
            if line.since is None:
                line.since = time.monotonic()
                if line.fifo:
                    self._summon(line)
                else:
                    self._watch()

    def _summon(self, line: Line) -> None:
        line.since = math.inf
        self._calls.put(line)

    def _watch(self) -> None:
        """Somebody has to look when the company's time is up. Under the lock."""
        if self._unwatched:
            self._unwatched = False
            self._lingering.notify()

    def linger(self) -> None:
        """Look at the clock for what waits, until closed: the work of a thread."""
        with self._lock:
            while not self._closed:
                now, rest = time.monotonic(), math.inf
                for line in tuple(self._lines.values()):
                    since = line.since
                    if since is None or since == math.inf:
                        continue
                    if self._urgent or since + LINGER <= now:
                        self._summon(line)
                    else:
                        rest = min(rest, since + LINGER - now)
                self._unwatched = rest == math.inf
                self._lingering.wait(None if self._unwatched else rest)
            for line in tuple(self._lines.values()):
                self._calls.put(line)
            for _ in range(self._helpers):
                self._calls.put(None)
