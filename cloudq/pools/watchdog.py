"""Limits off the main thread: one watchdog thread throws exceptions into the threads it watches."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Final

from cloudq.errors import SoftTimeLimitExceeded
from cloudq.pools.claim import Claim
from cloudq.pools.strikes import STRIKES, Cancel, HardLimit, Stopped, take_back, throw

_OFF, _ARMING, _ARMED = range(3)

#: Seconds until the watchdog looks again at a watch that was still in ``begin``.
_AGAIN: Final = 0.001


class ThreadWatch:
    """The Watch of one thread. ``lock`` stands between a strike and the end of what it is meant for:
    no strike is thrown without it, and ``end`` takes back, under it, what has not been raised yet.
    """

    def __init__(
        self, dog: Watchdog, abandon: Callable[[Claim], None] | None = None, patience: float = 1.0
    ) -> None:
        """``abandon`` is called by the watchdog, with the job's claim, when the job is not gone
        ``patience`` seconds after its hard limit."""
        self.limit = 0.0
        #: Of the job that is about to run, or runs; set by the pool.
        self.claim: Claim | None = None
        self._doomed: Claim | None = None
        self._over: Claim | None = None
        self._dog = dog
        self._abandon = abandon
        self._patience = patience
        self._ident = 0
        self._lock = threading.Lock()
        self._state = _OFF
        self._live = False
        self._struck = False
        self._soft_at = math.inf
        self._hard_at = math.inf
        self._abandon_at = math.inf

    # --- the pool's side, on the watched thread -----------------------------------------------

    def enter(self) -> None:
        """A job starts, in this thread. Raises Cancel when it was cancelled before."""
        self._ident = threading.get_ident()
        self._live = True
        if self._doomed is not None:  # looked at after we are live: who comes now throws
            self._doomed = None
            raise Cancel

    def leave(self) -> None:
        """The job is over. Once this has returned nothing strikes; until then anything may, so the
        caller must be ready to call it again when one of STRIKES comes out of it."""
        with self._lock:
            self._live = False
            self._over, self._doomed = self.claim, None
            self._still()

    def _still(self) -> None:
        self._state = _OFF
        if self._struck:
            self._struck = False
            take_back()

    # --- the runner's side, on the watched thread ---------------------------------------------

    def begin(self, soft: float | None, hard: float | None) -> None:
        """As Watch.begin. Limits in seconds."""
        if soft is None and hard is None:
            return
        now = time.monotonic()
        self.limit = hard or 0.0
        with self._lock:
            self._soft_at = math.inf if soft is None else now + soft
            self._hard_at = math.inf if hard is None else now + hard
            self._abandon_at = math.inf
            self._state = _ARMING
        self._dog.expect(min(self._soft_at, self._hard_at))
        self._state = _ARMED  # last: a strike from here on is raised in the caller

    def end(self) -> None:
        """As Watch.end. A strike that arrives meanwhile came too late: the code it was for is over."""
        if self._state == _OFF:
            return
        try:
            self._end()
        except STRIKES as strike:
            self._end()
            if isinstance(strike, Stopped | Cancel):
                raise

    def _end(self) -> None:
        with self._lock:
            self._still()

    # --- the watchdog's side ------------------------------------------------------------------

    def next_at(self, now: float) -> float:
        """When to look at this watch again (monotonic)."""
        with self._lock:
            if self._state == _OFF:
                return math.inf
            at = min(self._soft_at, self._hard_at, self._abandon_at)
            return max(at, now + _AGAIN) if self._state == _ARMING else at

    def strike_due(self, now: float) -> None:
        """Throw what is due."""
        abandoned: Claim | None = None
        with self._lock:
            if self._state != _ARMED:
                return
            if now >= self._hard_at:
                self._soft_at = self._hard_at = math.inf
                self._abandon_at = now + self._patience if self._abandon else math.inf
                self._throw(HardLimit)
            elif now >= self._soft_at:
                self._soft_at = math.inf
                self._throw(SoftTimeLimitExceeded)
            elif now >= self._abandon_at:
                self._abandon_at = math.inf
                abandoned = self.claim
        if abandoned is not None and self._abandon is not None:
            self._abandon(abandoned)

    def interrupt(self) -> None:
        """Throw Stopped into the job that runs, if one does. Any thread."""
        with self._lock:
            if self._live:
                self._throw(Stopped)

    def cancel(self, claim: Claim) -> bool:
        """Throw Cancel into the job of that claim, if it runs or is about to. Any thread."""
        with self._lock:
            if self.claim is not claim or self._over is claim:
                return False
            self._doomed = claim
            if self._live:
                self._throw(Cancel)
            return True

    def _throw(self, exception: type[BaseException]) -> None:
        self._struck = True
        throw(self._ident, exception)


class Watchdog:
    """Watches the limits of a pool's threads. Its thread sleeps without polling until the next
    one, and keeps no memory of limits that were not reached."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition(threading.Lock())
        self._watches: set[ThreadWatch] = set()
        self._wake_at = math.inf
        self._thread: threading.Thread | None = None
        self._closed = False

    def start(self) -> None:
        """Begin to watch; before any job runs.

        CPython throws at the youngest thread of an ident, and one that is just being started still
        has its parent's: what is meant for a job would hit the thread that the job has started.
        """
        with self._changed:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._main, name=self._name, daemon=True)
                self._thread.start()

    def add(self, watch: ThreadWatch) -> None:
        """Watch a thread from now on."""
        with self._changed:
            self._watches.add(watch)

    def remove(self, watch: ThreadWatch) -> None:
        """Watch it no more."""
        with self._changed:
            self._watches.discard(watch)

    def expect(self, at: float) -> None:
        """A limit falls at ``at`` (monotonic): be awake then."""
        with self._changed:
            if at < self._wake_at:
                self._wake_at = at
                self._changed.notify()

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _main(self) -> None:
        while True:
            with self._changed:
                now = time.monotonic()
                while now < self._wake_at and not self._closed:
                    left = self._wake_at - now
                    self._changed.wait(min(left, threading.TIMEOUT_MAX) if left < math.inf else None)
                    now = time.monotonic()
                if self._closed:
                    return
                watches = list(self._watches)
            for watch in watches:
                watch.strike_due(now)
            with self._changed:  # a begin() that we do not see here comes through expect() after us
                now = time.monotonic()
                self._wake_at = min((watch.next_at(now) for watch in self._watches), default=math.inf)
