"""Doing a thing again while an outside service is away."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from cloudq.clock import Clock
from cloudq.errors import AccessDenied, OperationalError, QueueNotFound, SendError, StoreNotFound
from cloudq.retry import backoff

T = TypeVar("T")
logger = logging.getLogger("cloudq.runtime")

#: What waiting does not mend: somebody must grant or create something.
STANDING: Final = (AccessDenied, QueueNotFound, StoreNotFound)
#: It is tried again all the same for so long: a policy that was just changed takes seconds to be in force everywhere.
STANDING_FOR: Final = 30.0


class Patience:
    """Retries for at most ``timeout`` seconds. ``hurry`` makes every further failure final: a
    worker that shuts down gives messages back rather than wait for a store that is away."""

    def __init__(self, timeout: float, clock: Clock) -> None:
        self.timeout = timeout
        self._clock = clock
        self._hurry = False
        #: No waiting past this moment (monotonic), whatever ``timeout`` says.
        self.until = math.inf

    def hurry(self) -> None:
        """Do not wait any more."""
        self._hurry = True

    def call(self, what: str, do: Callable[[], T]) -> T:
        """``do()``, again after every OperationalError until time runs out; then it is raised.

        Time is ``timeout`` for outages and for credentials that are being renewed, and ``STANDING_FOR`` where
        a permission, a queue or a store is missing.
        """
        began = self._clock.monotonic()
        waits: Iterator[float] | None = None
        while True:
            try:
                return do()
            except OperationalError as error:
                waits = waits or backoff(0.2, 10.0)
                wait, standing = next(waits), stands(error)
                timeout = min(self.timeout, STANDING_FOR) if standing else self.timeout
                if self._hurry or self._clock.monotonic() + wait > min(began + timeout, self.until):
                    raise
                level = logging.ERROR if standing else logging.WARNING
                logger.log(level, "%s: %s; trying again in %.1f s", what, error, wait)
                self._clock.sleep(wait)


def stands(error: OperationalError) -> bool:
    """Will it be the same until somebody does something about it?"""
    if isinstance(error, SendError):
        return all(isinstance(each, STANDING) for each in error.failures.values())
    return isinstance(error, STANDING)
