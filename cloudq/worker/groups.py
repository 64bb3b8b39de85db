"""FIFO groups: one message of a group at a time, in order; groups side by side."""

from __future__ import annotations

import threading
from collections import deque

from cloudq.brokers.base import Delivery, is_fifo


class Groups:
    """Holds back what must wait for an earlier message of its group."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[tuple[str, str], deque[Delivery]] = {}

    def admit(self, delivery: Delivery) -> bool:
        """May it start now? False: it is kept until the one before it is done."""
        key = _key(delivery)
        if key is None:
            return True
        with self._lock:
            line = self._waiting.get(key)
            if line is None:
                self._waiting[key] = deque()
                return True
            line.append(delivery)
            return False

    def done(self, delivery: Delivery, in_order: bool) -> tuple[Delivery | None, list[Delivery]]:
        """(the next one to start, those to give back).

        ``in_order`` is False when this message goes back to the queue: then nothing of its group
        may overtake it, and all that waited goes back as well.
        """
        key = _key(delivery)
        if key is None:
            return None, []
        with self._lock:
            line = self._waiting.get(key)
            if line is None:
                return None, []
            if not in_order or not line:
                del self._waiting[key]
                return None, list(line)
            return line.popleft(), []

    def behind(self, delivery: Delivery) -> int:
        """How many wait for it."""
        key = _key(delivery)
        with self._lock:
            return len(self._waiting.get(key, ())) if key is not None else 0

    def listed(self) -> list[Delivery]:
        """Everything that waits, in order."""
        with self._lock:
            return [each for line in self._waiting.values() for each in line]

    def clear(self) -> list[Delivery]:
        """Everything that waits, in order; nothing is admitted from it any more."""
        with self._lock:
            waiting = [each for line in self._waiting.values() for each in line]
            for line in self._waiting.values():
                line.clear()
            return waiting


def _key(delivery: Delivery) -> tuple[str, str] | None:
    if delivery.group_id is None or not is_fifo(delivery.queue):
        return None
    return delivery.queue, delivery.group_id
