"""What a running task holds in the results store (a place, a claim, a lock), renewed till it ends.

One thread per process, there only while something is held.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from cloudq.clock import Clock
from cloudq.errors import LeaseLost, OperationalError

logger = logging.getLogger("cloudq.leases")

#: A lease is renewed after this share of its time.
RENEW_AT: Final = 1 / 3
#: Seconds after which the thread ends when nothing is held any more.
LINGER: Final = 10.0


class Kept:
    """One lease in the keeper's care."""

    __slots__ = ("due", "lock", "lost", "over", "renew", "ttl", "what")

    def __init__(self, what: str, ttl: float, renew: Callable[[], None], due: float) -> None:
        self.what = what
        self.ttl = ttl
        self.renew = renew
        self.due = due
        self.lock = threading.Lock()
        self.over = False
        #: Somebody else has it now.
        self.lost = False


class Keeper:
    """Renews leases at a third of their time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._held: dict[int, Kept] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def keep(self, what: str, ttl: float, renew: Callable[[], None]) -> Kept:
        """Call ``renew`` every ``ttl / 3`` seconds until ``drop``. It raises LeaseLost when all is lost."""
        kept = Kept(what, ttl, renew, self._clock.monotonic() + ttl * RENEW_AT)
        with self._changed:
            self._held[id(kept)] = kept
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="cloudq-keeper", daemon=True)
                self._thread.start()
            else:
                self._changed.notify()
        return kept

    def drop(self, kept: Kept) -> bool:
        """Renew it no more; False when it was lost. No renewal is under way once this returns."""
        with self._changed:
            self._held.pop(id(kept), None)
        with kept.lock:
            kept.over = True
            return not kept.lost

    def beat(self) -> None:
        """Renew what is due, once. Called by the thread; tests call it themselves."""
        now = self._clock.monotonic()
        with self._changed:
            due = [each for each in self._held.values() if each.due <= now]
        for each in due:
            self._renew(each)

    def _renew(self, kept: Kept) -> None:
        with kept.lock:
            if kept.over:
                return
            try:
                kept.renew()
            except LeaseLost as error:
                kept.lost = kept.over = True
                logger.warning("%s is lost while its task runs: %s", kept.what, error)
            except OperationalError as error:
                logger.warning("renewing %s: %s; trying again", kept.what, error)
                kept.due = self._clock.monotonic() + kept.ttl / 12
                return
            kept.due = self._clock.monotonic() + kept.ttl * RENEW_AT
        if kept.lost:
            with self._changed:
                self._held.pop(id(kept), None)

    def _run(self) -> None:
        idle = False
        while True:
            with self._changed:
                if not self._held and idle:
                    self._thread = None
                    return
                idle = not self._held
                shortest = min((each.ttl for each in self._held.values()), default=12 * LINGER)
                self._changed.wait(LINGER if idle else max(0.02, min(1.0, shortest / 12)))
            try:
                self.beat()
            except Exception:
                logger.exception("renewing what tasks hold failed; going on")
