"""A budget for retries: when a service is down, everyone's tries must not multiply its load."""

from __future__ import annotations

import threading
from typing import Final

#: As botocore's standard mode has it: 500 tokens, five a retry, one back for each success.
CAPACITY: Final = 500
RETRY_COST: Final = 5


class RetryQuota:
    """Retries are paid for; successes earn them back. Thread-safe."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._left = capacity
        self._lock = threading.Lock()

    def allows(self) -> bool:
        """Pay for one retry; False when the budget is spent."""
        with self._lock:
            if self._left < RETRY_COST:
                return False
            self._left -= RETRY_COST
            return True

    def succeeded(self, tries: int) -> None:
        """A call worked at its ``tries``-th try."""
        if self._left == self._capacity:
            return
        with self._lock:
            earned = RETRY_COST if tries > 1 else 1
            self._left = min(self._capacity, self._left + earned)
