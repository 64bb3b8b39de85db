"""Limits on the main thread, by SIGALRM: they interrupt blocking calls too."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, Final

from cloudq.errors import SoftTimeLimitExceeded
from cloudq.pools.claim import Claim
from cloudq.pools.strikes import Cancel, HardLimit, Stopped

#: Seconds until the alarm looks again, when it went off inside ``begin``.
_AGAIN: Final = 0.001
#: Seconds between two strikes at a job that swallows its hard limit.
_INSIST: Final = 1.0


class AlarmWatch:
    """A Watch for jobs on the main thread; holds SIGALRM from its first job until ``close``, and
    ITIMER_REAL while a limit is set. Somebody else's alarm rings afterwards, if it is due by then.

    The handler runs between two instructions of the main thread and sees which function it
    interrupts: inside ``begin`` and functions named by ``entering`` it comes back a little later,
    inside ``end`` and functions named by ``quiet`` the job has ended in time and nothing is raised.
    """

    def __init__(
        self, quiet: tuple[Callable[..., Any], ...] = (), entering: tuple[Callable[..., Any], ...] = ()
    ) -> None:
        self.limit = 0.0
        #: Of the job that is about to run, or runs; set by a pool that cancels.
        self.claim: Claim | None = None
        self._doomed: Claim | None = None
        self._armed = False
        self._live = False
        self._strike: type[BaseException] | None = None
        self._soft_at: float | None = None
        self._hard_at: float | None = None
        self._previous: Any = None
        #: Somebody else's timer that ours has stopped: when it would have rung, and its interval.
        self._theirs: tuple[float, float] | None = None
        self._entering = _codes(AlarmWatch.begin, AlarmWatch._set_timer, *entering)
        self._ending = _codes(AlarmWatch.end, AlarmWatch.leave, AlarmWatch._disarm, *quiet)

    # --- the pool's side ----------------------------------------------------------------------

    def enter(self) -> None:
        """A job starts. Main thread only. Raises Cancel when it was cancelled before."""
        if signal.getsignal(signal.SIGALRM) != self._on_alarm:  # first job, or a task took the signal
            self._previous = signal.signal(signal.SIGALRM, self._on_alarm)
        self._live = True
        self._raise_cancel()

    def leave(self) -> None:
        """The job is over; nothing strikes from here on."""
        self._live = False
        self._disarm()

    def close(self) -> None:
        """Give SIGALRM back. Main thread only."""
        if signal.getsignal(signal.SIGALRM) == self._on_alarm:
            previous = self._previous if self._previous is not None else signal.SIG_DFL
            signal.signal(signal.SIGALRM, previous)

    def interrupt(self) -> None:
        """From another thread: throw Stopped into the job that runs, if one does."""
        self._strike = Stopped
        self._ring()

    def cancel(self, claim: Claim) -> bool:
        """From another thread: throw Cancel into the job of that claim, if it runs or is about to."""
        if self.claim is not claim:
            return False
        self._doomed = claim
        self._ring()
        return True

    def _ring(self) -> None:
        # A task may have put its own handler (or none, which kills) in our place.
        if self._live and signal.getsignal(signal.SIGALRM) == self._on_alarm:
            main = threading.main_thread().ident
            assert main is not None
            signal.pthread_kill(main, signal.SIGALRM)

    # --- the runner's side --------------------------------------------------------------------

    def begin(self, soft: float | None, hard: float | None) -> None:
        """As Watch.begin. Limits in seconds."""
        if soft is None and hard is None:
            return
        if signal.getsignal(signal.SIGALRM) != self._on_alarm:
            signal.signal(signal.SIGALRM, self._on_alarm)
        now = time.monotonic()
        self.limit = hard or 0.0
        self._soft_at = None if soft is None else now + soft
        self._hard_at = None if hard is None else now + hard
        delay, interval = signal.getitimer(signal.ITIMER_REAL)
        self._theirs = (now + delay, interval) if delay else None
        self._armed = True
        self._set_timer(now)

    def end(self) -> None:
        """As Watch.end."""
        if self._armed:
            self._disarm()

    def _disarm(self) -> None:
        if self._armed:
            self._armed = False
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            if self._theirs is not None:
                at, interval = self._theirs
                signal.setitimer(signal.ITIMER_REAL, max(1e-6, at - time.monotonic()), interval)

    def _set_timer(self, now: float) -> None:
        moments = [at for at in (self._soft_at, self._hard_at) if at is not None]
        if moments:  # zero would switch the timer off
            signal.setitimer(signal.ITIMER_REAL, max(1e-6, min(moments) - now))

    def _raise_cancel(self) -> None:
        doomed, self._doomed = self._doomed, None
        if doomed is not None and doomed is self.claim:  # else: for a job that had just ended
            raise Cancel

    def _on_alarm(self, signum: int, frame: FrameType | None) -> None:
        code = frame.f_code if frame is not None else None
        if code in self._ending:
            return  # the job ended in time
        if self._strike is not None and self._live:
            strike, self._strike = self._strike, None
            raise strike
        if self._live:
            self._raise_cancel()
        if not self._armed:
            if callable(self._previous):  # theirs, that was set while we hold the signal
                self._previous(signum, frame)
            return
        if code in self._entering:
            signal.setitimer(signal.ITIMER_REAL, _AGAIN)
            return
        now = time.monotonic()
        if self._hard_at is not None and now >= self._hard_at:
            self._hard_at = now + _INSIST
            self._soft_at = None
            self._set_timer(now)
            raise HardLimit
        due = self._soft_at is not None and now >= self._soft_at
        if due:
            self._soft_at = None
        self._set_timer(now)
        if due:
            raise SoftTimeLimitExceeded


def _codes(*functions: Callable[..., Any]) -> frozenset[CodeType | None]:
    return frozenset(function.__code__ for function in functions)
