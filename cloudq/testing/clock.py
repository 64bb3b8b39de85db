"""A clock that stands still until a test moves it."""

from __future__ import annotations

import threading
from typing import Final

#: Real seconds after which a waiter looks again although nobody has moved the clock.
_GLANCE: Final = 0.05


class ManualClock:
    """``advance(seconds)`` moves it and wakes everybody who waits on it. Thread-safe."""

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self._now = start
        self._moved = threading.Condition()
        self._waiting: set[threading.Condition] = set()

    def time(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Move on by ``seconds``."""
        with self._moved:
            self._now += seconds
            self._moved.notify_all()
            waiting = list(self._waiting)
        for each in waiting:
            with each:
                each.notify_all()

    def wait(self, condition: threading.Condition, timeout: float | None) -> bool:
        """Wait (the caller holds ``condition``) until notified or the clock moved; may wake for nothing.

        Returns whether the time is not up yet. Waiters look again after a glance in any case: a
        notification that comes just as ``Condition.wait`` times out is told to nobody.
        """
        if timeout is None:
            return condition.wait()
        until = self._now + timeout
        self._waiting.add(condition)
        try:
            if self._now < until:
                condition.wait(_GLANCE)
        finally:
            self._waiting.discard(condition)
        return self._now < until

    def sleep(self, seconds: float) -> None:
        """Wait until somebody has moved the clock by ``seconds``."""
        until = self._now + seconds
        with self._moved:
            while self._now < until:
                self._moved.wait(_GLANCE)


class JumpingClock(ManualClock):
    """A manual clock that moves by itself whenever somebody sleeps: for code that backs off."""

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def wait(self, condition: threading.Condition, timeout: float | None) -> bool:
        if timeout is None:
            return super().wait(condition, timeout)
        self._now += timeout
        return False
