"""When to try again, and how long to wait: for tasks, and for our own calls to outside services."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

#: Celery's defaults: seconds between tries, and tries after the first.
DEFAULT_RETRY_DELAY: Final = 180.0
DEFAULT_MAX_RETRIES: Final = 3


def exponential_delay(
    factor: float, retries: int, maximum: float, jitter: bool, rand: Callable[[], float] | None = None
) -> float:
    """``factor * 2**retries`` seconds, at most ``maximum``; with ``jitter`` a random share of it.

    Full jitter, as Celery's ``get_exponential_backoff_interval`` does it.
    """
    # 2**64 is far past any maximum; the bound keeps a runaway counter from overflowing a float.
    delay = min(maximum, factor * float(2 ** min(retries, 64)))
    if jitter:
        delay *= (rand or _random)()
    return max(0.0, delay)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """A task's own word on retries (the options of ``@app.task``)."""

    max_retries: int | None = DEFAULT_MAX_RETRIES
    default_delay: float = DEFAULT_RETRY_DELAY
    autoretry_for: tuple[type[BaseException], ...] = ()
    dont_autoretry_for: tuple[type[BaseException], ...] = ()
    backoff: float | None = None
    backoff_max: float = 600.0
    jitter: bool = True

    def wants(self, error: BaseException) -> bool:
        """Should this error lead to a retry without the task asking?"""
        return isinstance(error, self.autoretry_for) and not isinstance(error, self.dont_autoretry_for)

    def delay(self, retries: int, rand: Callable[[], float] | None = None) -> float:
        """Seconds before try number ``retries + 1``."""
        if self.backoff is None:
            return self.default_delay
        return exponential_delay(self.backoff, retries, self.backoff_max, self.jitter, rand)


def backoff(start: float, maximum: float, rand: Callable[[], float] | None = None) -> Iterator[float]:
    """Endless waits for our own retries: doubling from ``start`` to ``maximum`` seconds, each
    between half and all of its value so that many clients do not come back together."""
    delay = start
    while True:
        yield delay * (0.5 + 0.5 * (rand or _random)())
        delay = min(maximum, delay * 2)


def _random() -> float:
    import random  # late: 5 ms that declaring tasks does not need

    return random.random()
