"""Where time comes from. Everything that waits or compares times is given a Clock."""

from __future__ import annotations

import threading
from time import monotonic, sleep, time
from typing import Protocol


class Clock(Protocol):
    """A source of time. ``cloudq.testing`` has one that a test moves by hand."""

    def time(self) -> float:
        """Seconds since the epoch (wall clock; what messages and records carry)."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back (what waits are measured with)."""
        ...

    def wait(self, condition: threading.Condition, timeout: float | None) -> bool:
        """Wait on ``condition`` (held by the caller) for at most ``timeout`` seconds."""
        ...

    def sleep(self, seconds: float) -> None:
        """Do nothing for ``seconds``."""
        ...


class SystemClock:
    """The machine's own clock."""

    # the machine's own functions, without a call of ours around them: a task asks for the time again and again
    time = staticmethod(time)
    monotonic = staticmethod(monotonic)
    sleep = staticmethod(sleep)

    def wait(self, condition: threading.Condition, timeout: float | None) -> bool:
        return condition.wait(timeout)


SYSTEM_CLOCK: Clock = SystemClock()
