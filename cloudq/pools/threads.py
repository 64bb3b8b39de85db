"""Threads: for tasks that wait (networks, databases), in one process.

A soft limit raises in the task's thread, a hard one as well; a thread that does not come back (it
sits in a C call) is abandoned and replaced: Python cannot kill it.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from cloudq.plugins import load_object
from cloudq.pools.base import Died, End, Finished, Returned, Runner, RunnerSpec, TimedOut
from cloudq.pools.interrupt import HardLimit, Limits, ThreadWatch

logger = logging.getLogger("cloudq.pools")


class Job:
    """A job and whom to tell; ``settle`` tells once, whoever comes first."""

    __slots__ = ("_done", "job")

    def __init__(self, job: Any, done: Callable[[End], None]) -> None:
        self.job = job
        self._done = [done]

    def settle(self, end: End) -> bool:
        try:
            done = self._done.pop()  # atomic: only one caller gets it
        except IndexError:
            return False
        done(end)
        return True


class ThreadsPool:
    """``size`` threads that take jobs from one queue."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._limits = Limits()
        self._runner: Runner | None = None
        self._lock = threading.Lock()
        self._current: dict[threading.Thread, Job] = {}
        self._threads: set[threading.Thread] = set()
        self._stopping = False
        self._deadline = float("inf")
        #: Threads that did not come back from a hard limit.
        self.abandoned = 0

    @property
    def size(self) -> int:
        return self._size

    def start(self, spec: RunnerSpec, runner: Runner | None = None) -> None:
        self._runner = runner if runner is not None else load_object(spec.factory)(*spec.args)
        for _ in range(self._size):
            self._add_thread()

    def submit(self, job: Any, done: Callable[[End], None]) -> None:
        if self._stopping:
            done(Returned())
        else:
            self._jobs.put(Job(job, done))

    def resize(self, size: int) -> None:
        """Grow or shrink; running jobs are not disturbed."""
        with self._lock:
            change, self._size = size - self._size, size
        for _ in range(change):
            self._add_thread()
        for _ in range(-change):
            self._jobs.put(None)

    def stop(self, grace: float) -> None:
        self._stopping = True
        self._deadline = min(self._deadline, time.monotonic() + grace)
        self._return_waiting()
        for _ in range(len(self._threads)):
            self._jobs.put(None)
        while time.monotonic() < self._deadline:
            with self._lock:
                alive = [each for each in self._threads if each.is_alive()]
            if not alive:
                break
            alive[0].join(min(0.05, max(0.0, self._deadline - time.monotonic())))
        self._return_waiting()
        with self._lock:
            left = list(self._current.values())
        for each in left:
            each.settle(Died("it was still running when the pool stopped"))
        self._limits.close()
        if self._runner is not None and not left:
            runner, self._runner = self._runner, None
            runner.close()

    def _return_waiting(self) -> None:
        while True:
            try:
                waiting = self._jobs.get_nowait()
            except queue.Empty:
                return
            if waiting is not None:
                waiting.settle(Returned())

    def _add_thread(self) -> None:
        thread = threading.Thread(target=self._run, name=f"cloudq-task-{len(self._threads) + 1}", daemon=True)
        with self._lock:
            self._threads.add(thread)
        thread.start()

    def _run(self) -> None:
        me = threading.current_thread()
        while (job := self._jobs.get()) is not None:
            if self._stopping:
                job.settle(Returned())
                continue
            self._current[me] = job
            end = self._work(job, me)
            self._current.pop(me, None)
            if not job.settle(end):
                return  # we were given up; another thread has our place
        with self._lock:
            self._threads.discard(me)

    def _work(self, job: Job, me: threading.Thread) -> End:
        assert self._runner is not None
        watch = ThreadWatch(self._limits, lambda limit: self._abandon(job, me, limit))
        try:
            return Finished(self._runner.run(job.job, watch))
        except HardLimit:
            return TimedOut(watch.hard or 0.0)
        except BaseException as error:  # a runner never raises; if one does, the job must not vanish
            logger.exception("a runner failed")
            return Died(f"the runner failed: {error!r}")
        finally:
            watch.end()

    def _abandon(self, job: Job, thread: threading.Thread, limit: float) -> None:
        with self._lock:
            self._threads.discard(thread)
            self._current.pop(thread, None)
            self.abandoned += 1
        logger.error("a task does not come back from its hard limit of %g s; its thread is abandoned", limit)
        if job.settle(TimedOut(limit)) and not self._stopping:
            self._add_thread()
