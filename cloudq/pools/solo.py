"""The pool of one: every job runs in the thread that submits it."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from typing import Any, Final

from cloudq.pools import runners
from cloudq.pools.alarm import AlarmWatch
from cloudq.pools.base import Active, Died, End, Returned, Runner, RunnerSpec
from cloudq.pools.claim import Claim, Done
from cloudq.pools.guard import attempt, guarded
from cloudq.pools.watchdog import ThreadWatch, Watchdog

#: Seconds that a stopping pool gives an interrupted job to come out of its ``finally`` blocks.
_OUT: Final = 0.5


class SoloPool:
    """Runs jobs one after another inside ``submit``; a submit that comes while one runs (from the
    job's ``done``, or another thread) leaves its job to that one.

    On the main thread limits come as signals and interrupt blocking calls; elsewhere they are thrown
    into the thread and wait for a C call to return.
    """

    def __init__(self, size: int = 1) -> None:
        """``size`` is there for all pools to be made alike: this one has one place."""
        self._runner: Runner | None = None
        self._dog = Watchdog("cloudq-solo-watchdog")
        self._alarm = AlarmWatch(quiet=(guarded, attempt))
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Any, Done]] = deque()
        self._busy = False
        self._thread: int | None = None
        self._claim: Claim | None = None
        self._running: Active | None = None
        self._watch: AlarmWatch | ThreadWatch = self._alarm
        self._stopping = False
        self._closed = False
        self._deadline = float("inf")

    @property
    def size(self) -> int:
        """Always 1."""
        return 1

    def start(self, spec: RunnerSpec, runner: Runner | None = None) -> None:
        """As Pool.start."""
        self._runner = runner if runner is not None else runners.make(spec)
        self._dog.start()

    def submit(self, job: Any, done: Done) -> None:
        """Run ``job`` now and call ``done`` before returning (unless another job is running)."""
        with self._changed:
            accepted = not self._stopping
            if accepted:
                self._waiting.append((job, done))
                if self._busy:
                    return
                self._busy = True
                self._thread = threading.get_ident()
        if accepted:
            self._drain()
        else:
            Claim(done).tell(Returned())

    def stop(self, grace: float) -> None:
        """As Pool.stop. Called by the job itself (or a signal handler above it) it does not wait."""
        with self._changed:
            self._stopping = True
            self._deadline = min(self._deadline, time.monotonic() + grace)
            waiting = list(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
        for _, done in waiting:
            Claim(done).tell(Returned())
        if self._thread != threading.get_ident():
            self._wait_for_job()
        with self._changed:
            close, self._closed = not self._closed and not self._busy, self._closed or not self._busy
        if close:
            self._close()

    def active(self) -> list[Active]:
        """As Steerable.active."""
        running = self._running
        return [] if running is None else [running]

    def cancel(self, job: Any, running: bool) -> bool:
        """As Steerable.cancel. Jobs that wait are not reached."""
        with self._changed:  # no other job can begin meanwhile
            now, watch = self._running, self._watch
            if not running or now is None or now.job is not job or self._claim is None:
                return False
            return watch.cancel(self._claim)

    def _wait_for_job(self) -> None:
        with self._changed:
            while self._busy and (left := self._deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            if not self._busy:
                return
            claim = self._claim
        self._watch.interrupt()
        with self._changed:
            if self._changed.wait_for(lambda: not self._busy, _OUT):
                return
        if claim is not None:
            claim.tell(Died("the pool was stopped while it ran; it may still be running"))

    def _close(self) -> None:
        self._dog.close()
        if threading.current_thread() is threading.main_thread():
            self._alarm.close()
        runners.close(self._runner)

    # --- the job ------------------------------------------------------------------------------

    def _drain(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._release()
                    late = self._stopping and not self._closed
                    self._closed = self._closed or late
                    break
                job, done = self._waiting.popleft()
                self._claim = claim = Claim(done)
                self._watch = watch = self._pick_watch()
                watch.claim = claim
                self._running = Active(job, time.time(), os.getpid())
            try:
                end = self._run(job, watch)
            except BaseException:  # KeyboardInterrupt: for the process, not for the job
                claim.tell(Died("interrupted"))
                self._release()
                raise
            claim.tell(end)
        if late:
            self._close()

    def _release(self) -> None:
        with self._changed:
            self._busy, self._thread, self._claim, self._running = False, None, None, None
            self._changed.notify_all()

    def _pick_watch(self) -> AlarmWatch | ThreadWatch:
        if threading.current_thread() is threading.main_thread():
            return self._alarm
        return ThreadWatch(self._dog)

    def _run(self, job: Any, watch: AlarmWatch | ThreadWatch) -> End:
        assert self._runner is not None, "submit before start"
        if isinstance(watch, AlarmWatch):
            return guarded(self._runner, job, watch)
        self._dog.add(watch)
        try:
            return guarded(self._runner, job, watch)
        finally:
            self._dog.remove(watch)
