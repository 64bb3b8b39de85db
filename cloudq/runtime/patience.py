"""Doing a thing again while an outside service is away."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TypeVar

from cloudq.clock import Clock
from cloudq.errors import OperationalError
from cloudq.retry import backoff

T = TypeVar("T")
logger = logging.getLogger("cloudq.runtime")


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
        """``do()``, again after every OperationalError until time runs out; then it is raised."""
        deadline = min(self._clock.monotonic() + self.timeout, self.until)
        for wait in backoff(0.2, 10.0):
            try:
                return do()
            except OperationalError as error:
                if self._hurry or self._clock.monotonic() + wait > deadline:
                    raise
                logger.warning("%s: %s; trying again in %.1f s", what, error, wait)
                self._clock.sleep(wait)
        raise AssertionError("backoff() never ends")
