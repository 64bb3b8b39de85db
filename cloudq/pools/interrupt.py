"""Stopping code in a running thread: exceptions raised from outside.

CPython delivers them between bytecodes: a thread inside a C call (``time.sleep``, a socket read)
gets them when that call returns.
"""

from __future__ import annotations

import ctypes
import heapq
import itertools
import threading
import time
from collections.abc import Callable

from cloudq.errors import SoftTimeLimitExceeded


class HardLimit(BaseException):
    """Ends a job's user code at its hard limit; no ``except Exception`` catches it."""


def raise_in(thread_id: int, kind: type[BaseException] | None) -> None:
    """Have ``kind`` raised in that thread; None takes back one that was not delivered yet."""
    target = ctypes.py_object(kind) if kind is not None else ctypes.py_object()
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), target)


class ThreadWatch:
    """The limits of one job in one thread; see ``Watch``."""

    __slots__ = ("_done", "_fired", "_limits", "_lock", "_thread_id", "hard", "on_stuck", "soft", "struck")

    def __init__(self, limits: Limits, on_stuck: Callable[[float], None] | None = None) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._done = True
        self._fired = False
        self._thread_id = 0
        self.on_stuck = on_stuck
        self.soft: float | None = None
        self.hard: float | None = None
        #: The hard limit has struck.
        self.struck = False

    def begin(self, soft: float | None, hard: float | None) -> None:
        if soft is None and hard is None:
            return
        self.soft, self.hard = soft, hard
        self.arm()
        self._limits.add(self)

    def arm(self) -> None:
        """From now until ``end``, ``strike`` raises in this thread."""
        self._thread_id = threading.get_ident()
        self._done = self._fired = False

    def end(self) -> None:
        # An exception that was sent may arrive at any bytecode here: user code has ended, so it is dropped.
        while not self._done or self._fired:
            try:
                with self._lock:
                    self._done = True
                if self._fired:
                    raise_in(self._thread_id, None)
                    self._fired = False
            except (SoftTimeLimitExceeded, HardLimit):
                continue

    def strike(self, kind: type[BaseException]) -> None:
        """From another thread: raise ``kind`` unless user code has ended."""
        with self._lock:
            if not self._done:
                self._fired = True
                self.struck = self.struck or kind is HardLimit
                raise_in(self._thread_id, kind)

    @property
    def running(self) -> bool:
        return not self._done


class Limits:
    """One watchdog thread for all jobs of a pool; it sleeps while no job has a limit."""

    #: Seconds that user code gets to end after its hard limit before its thread is given up.
    GRACE = 1.0

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, watch: ThreadWatch) -> None:
        """Watch over a job that starts now."""
        now = time.monotonic()
        with self._changed:
            if watch.soft is not None:
                self._push(now + watch.soft, lambda: watch.strike(SoftTimeLimitExceeded))
            if watch.hard is not None:
                self._push(now + watch.hard, lambda: watch.strike(HardLimit))
                self._push(now + watch.hard + self.GRACE, lambda: self._give_up(watch))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="cloudq-limits", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _give_up(self, watch: ThreadWatch) -> None:
        if watch.running and watch.on_stuck is not None and watch.hard is not None:
            watch.on_stuck(watch.hard)

    def _push(self, due: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (due, next(self._order), act))

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closed:
                    wait = self._queue[0][0] - time.monotonic() if self._queue else None
                    if wait is not None and wait <= 0:
                        break
                    self._changed.wait(wait)
                if self._closed:
                    return
                _, _, act = heapq.heappop(self._queue)
            act()
