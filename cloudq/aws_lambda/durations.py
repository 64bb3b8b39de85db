"""How long tasks have taken in this process: what says whether another one still fits."""

from __future__ import annotations

from collections import deque
from typing import Final

#: Runs remembered of each task.
_KEPT: Final = 50


class Durations:
    """The last runs of every task, seconds. Used from several threads; a lost sample does no harm."""

    def __init__(self) -> None:
        self._runs: dict[str, deque[float]] = {}

    def add(self, task: str, seconds: float) -> None:
        """A run has ended."""
        self._runs.setdefault(task, deque(maxlen=_KEPT)).append(seconds)

    def expected(self, task: str) -> float | None:
        """What 95 of 100 runs stayed under; None before the first."""
        runs = sorted(self._runs.get(task, ()))
        return runs[int(0.95 * (len(runs) - 1))] if runs else None
