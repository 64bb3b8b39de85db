"""How many messages a worker may hold: it asks the queue only for what can start soon (decision 13)."""

from __future__ import annotations

import threading


class Credit:
    """``limit`` places. Polls look at what is free, and take what they were really given.

    A poll reserves nothing while it waits: an idle queue's long poll must not block the places
    that a busy one could use. Several polls that answer at once may therefore overdraw by a few;
    ``free`` then stays at zero until that is worked off.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._changed = threading.Condition()
        self._closed = False

    def wait(self, timeout: float | None = None) -> int:
        """Free places, as soon as there is one; 0 after ``timeout`` seconds or once closed."""
        with self._changed:
            if not self._closed and self._held >= self._limit:
                self._changed.wait(timeout)
            return 0 if self._closed else max(0, self._limit - self._held)

    def take(self, count: int) -> None:
        """``count`` messages have come in."""
        with self._changed:
            self._held += count

    def give(self, count: int = 1) -> None:
        """``count`` messages are done with."""
        with self._changed:
            self._held -= count
            if self._held < self._limit:
                self._changed.notify()

    def resize(self, limit: int) -> None:
        """Change the number of places."""
        with self._changed:
            self._limit = limit
            self._changed.notify_all()

    def close(self) -> None:
        """No places any more; wakes all waiters."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def held(self) -> int:
        return self._held

    @property
    def limit(self) -> int:
        return self._limit
