"""Messages that a limit lets not start yet and that must keep their place: held under their leases."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from cloudq.brokers.base import Delivery

logger = logging.getLogger("cloudq.worker")

#: Most messages held; further ones are given back to the queue till they are due.
MOST: Final = 1000
#: Longest that one is held at a stretch (seconds): half of what SQS lets a message be invisible.
LONGEST: Final = 6 * 3600.0


class Waiting:
    """Calls ``resume(delivery)`` when its time has come, from a thread of its own."""

    def __init__(self, resume: Callable[[Delivery], None]) -> None:
        self._resume = resume
        self._order = itertools.count()
        self._held: list[tuple[float, int, Delivery]] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        return len(self._held)

    def listed(self) -> list[tuple[Delivery, float]]:
        """What is held, and for how many more seconds; the next one first."""
        with self._changed:
            held = sorted(self._held)
        now = time.monotonic()
        return [(delivery, max(0.0, due - now)) for due, _, delivery in held]

    def add(self, delivery: Delivery, delay: float) -> bool:
        """Hold it for ``delay`` seconds. False when there is no room, or it would be too long."""
        with self._changed:
            if self._closed or delay > LONGEST or len(self._held) >= MOST:
                return False
            heapq.heappush(self._held, (time.monotonic() + delay, next(self._order), delivery))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="cloudq-waiting", daemon=True)
                self._thread.start()
            self._changed.notify()
        return True

    def close(self) -> None:
        """No more waiting: everything is resumed here and now."""
        with self._changed:
            self._closed = True
            held, self._held = self._held, []
            self._changed.notify()
        for _, _, delivery in sorted(held):
            self._resume(delivery)

    def _run(self) -> None:
        while (delivery := self._next()) is not None:
            try:
                self._resume(delivery)
            except Exception:
                logger.exception("message %s could not be resumed; its lease runs on", delivery.message_id)

    def _next(self) -> Delivery | None:
        with self._changed:
            while not self._closed:
                if not self._held:
                    self._changed.wait()
                    continue
                rest = self._held[0][0] - time.monotonic()
                if rest <= 0:
                    return heapq.heappop(self._held)[2]
                self._changed.wait(rest)
            return None
