"""A job's end, told exactly once, however many would tell it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from cloudq.pools.base import End

logger = logging.getLogger("cloudq.pools")

Done = Callable[[End], None]


class Claim:
    """The right to tell how one job ended. The first to tell wins; later ends are dropped."""

    __slots__ = ("_done",)

    def __init__(self, done: Done) -> None:
        self._done = [done]

    def take(self) -> Done | None:
        """The callback, for the one caller who gets it; it must then be called."""
        try:
            return self._done.pop()  # one step, so that it needs no lock
        except IndexError:
            return None

    def tell(self, end: End) -> bool:
        """Call ``done(end)`` unless that has happened. True when it was us."""
        done = self.take()
        if done is None:
            return False
        tell(done, end)
        return True


def tell(done: Done, end: End) -> None:
    """Call ``done``. What it raises is logged: it must not take the pool's thread down."""
    try:
        done(end)
    except Exception:
        logger.exception("the callback of a job that ended as %r failed", end)
