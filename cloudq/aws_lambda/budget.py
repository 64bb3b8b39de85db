"""The time an invocation has, and what of it is kept back for the answer."""

from __future__ import annotations

import time
from typing import Any, Final

#: Kept back at the end of an invocation: this share of its time, and no less than these seconds ...
SHARE: Final = 0.05
LEAST: Final = 1.5
#: ... but never more than this share of what there is.
MOST: Final = 0.5
#: What an invocation without a context has, seconds (Lambda's longest).
UNKNOWN: Final = 900.0


class Budget:
    """Instants of one invocation (monotonic seconds).

    ``soft_at``: tasks that still run get SoftTimeLimitExceeded. ``hard_at``: they are given up.
    ``answer_at``: the answer goes out, whatever is still under way. ``ends_at``: Lambda kills the
    process.
    """

    def __init__(self, seconds: float, now: float | None = None) -> None:
        self.started = time.monotonic() if now is None else now
        self.seconds = max(0.0, seconds)
        margin = min(max(LEAST, SHARE * self.seconds), MOST * self.seconds)
        self.ends_at = self.started + self.seconds
        self.soft_at = self.ends_at - margin
        self.hard_at = self.ends_at - 0.7 * margin
        self.answer_at = self.ends_at - 0.3 * margin

    @classmethod
    def of(cls, context: Any) -> Budget:
        """What Lambda's context object says is left."""
        ask = getattr(context, "get_remaining_time_in_millis", None)
        return cls(ask() / 1000.0 if callable(ask) else UNKNOWN)

    def left(self) -> float:
        """Seconds that a task started now may run."""
        return self.soft_at - time.monotonic()
