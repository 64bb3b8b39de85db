"""Solo: one job at a time, in the thread that submits it. For debugging, and for the smallest containers."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from cloudq.errors import SoftTimeLimitExceeded
from cloudq.plugins import load_object
from cloudq.pools.base import Died, End, Finished, Returned, Runner, RunnerSpec, TimedOut, Watch
from cloudq.pools.interrupt import HardLimit, Limits, ThreadWatch

logger = logging.getLogger("cloudq.pools")


class AlarmWatch:
    """Limits by SIGALRM: for jobs on the main thread. It interrupts waiting C calls as well."""

    def __init__(
        self, tell: Callable[[float | None], None] = lambda hard: None, own_hard: bool = True
    ) -> None:
        self._tell = tell
        self._own_hard = own_hard
        self._armed = False
        self._rest: float | None = None
        self._before: Any = None
        self.hard: float | None = None

    def begin(self, soft: float | None, hard: float | None) -> None:
        self.hard = hard
        if hard is not None:
            self._tell(hard)
        mine = hard if self._own_hard else None
        first = soft if soft is not None else mine
        if first is None:
            return
        self._rest = None if soft is None or mine is None else max(0.001, mine - soft)
        self._kind: type[BaseException] = SoftTimeLimitExceeded if soft is not None else HardLimit
        self._before = signal.signal(signal.SIGALRM, self._ring)
        self._armed = True
        signal.setitimer(signal.ITIMER_REAL, max(0.001, first))

    def end(self) -> None:
        was_armed, self._armed = self._armed, False
        if was_armed:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, self._before)
        if self.hard is not None:
            self._tell(None)
            self.hard = None

    def _ring(self, number: int, frame: FrameType | None) -> None:
        if not self._armed:
            return
        kind = self._kind
        if self._rest is not None:
            rest, self._rest = self._rest, None
            self._kind = HardLimit
            signal.setitimer(signal.ITIMER_REAL, rest)
        raise kind


class SoloPool:
    """Runs each job inside ``submit``."""

    def __init__(self, size: int = 1) -> None:
        self._runner: Runner | None = None
        self._lock = threading.Lock()
        self._limits = Limits()
        self._running: ThreadWatch | None = None
        self._stopping = False
        self._on_main = False
        self._cut = False

    @property
    def size(self) -> int:
        return 1

    def start(self, spec: RunnerSpec, runner: Runner | None = None) -> None:
        self._runner = runner if runner is not None else load_object(spec.factory)(*spec.args)
        on_main = threading.current_thread() is threading.main_thread()
        if on_main and signal.getsignal(signal.SIGALRM) is signal.SIG_DFL:
            signal.signal(signal.SIGALRM, _wake_up)

    def submit(self, job: Any, done: Callable[[End], None]) -> None:
        with self._lock:
            done(Returned() if self._stopping else self._work(job))

    def stop(self, grace: float) -> None:
        self._stopping = True
        if self._lock.acquire(timeout=grace):
            self._lock.release()
        elif (running := self._running) is not None:
            self._cut = True
            running.strike(HardLimit)
            if self._on_main and callable(signal.getsignal(signal.SIGALRM)):
                # a waiting C call (sleep, a socket) ends early only for a signal
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)
        self._limits.close()

    def _work(self, job: Any) -> End:
        assert self._runner is not None
        self._on_main = threading.current_thread() is threading.main_thread()
        watch: Watch = AlarmWatch() if self._on_main else ThreadWatch(self._limits)
        hard: list[float | None] = []
        cut = self._running = ThreadWatch(self._limits)
        try:
            cut.arm()
            try:
                return Finished(self._runner.run(job, _Noting(watch, hard)))
            finally:
                cut.end()
        except HardLimit:
            return (
                Died("it was still running when the pool stopped") if self._cut else TimedOut(hard[-1] or 0.0)
            )
        except Exception as error:
            logger.exception("a runner failed")
            return Died(f"the runner failed: {error!r}")
        finally:
            self._running = None
            watch.end()


def _wake_up(number: int, frame: FrameType | None) -> None:
    """Does nothing: that it is called at all lets a pending exception out of a C call."""


class _Noting:
    """A watch that remembers the hard limit it was given."""

    def __init__(self, watch: Watch, hard: list[float | None]) -> None:
        self._watch = watch
        self._hard = hard

    def begin(self, soft: float | None, hard: float | None) -> None:
        self._hard.append(hard)
        self._watch.begin(soft, hard)

    def end(self) -> None:
        self._watch.end()
