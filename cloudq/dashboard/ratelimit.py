"""How often somebody may try: a bucket of tokens for each key, in memory."""

from __future__ import annotations

from typing import Final

from cloudq.clock import Clock

#: Keys remembered at most; the ones that were filled up longest ago go first.
_MOST: Final = 10_000


class RateLimit:
    """``per_minute`` tries for each key, evenly; as many at once after a minute of rest."""

    def __init__(self, per_minute: int, clock: Clock) -> None:
        self._most = float(max(1, per_minute))
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, key: str) -> bool:
        """One try. False: too many lately."""
        now = self._clock.monotonic()
        left, at = self._left.pop(key, (self._most, now))
        left = min(self._most, left + (now - at) * self._most / 60.0)
        while len(self._left) >= _MOST:
            del self._left[next(iter(self._left))]
        self._left[key] = (left - 1.0 if left >= 1.0 else left, now)
        return left >= 1.0
