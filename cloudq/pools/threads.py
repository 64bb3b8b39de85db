"""A pool of threads, for jobs that mostly wait."""

from __future__ import annotations

import math
import os
import threading
import time
from queue import Empty, SimpleQueue
from typing import Any, Final

from cloudq.errors import ImproperlyConfigured
from cloudq.pools import runners
from cloudq.pools.base import Active, Died, End, Returned, Runner, RunnerSpec, TimedOut
from cloudq.pools.claim import Claim, Done, logger, tell
from cloudq.pools.guard import guarded
from cloudq.pools.watchdog import ThreadWatch, Watchdog

#: Seconds that a stopping pool gives interrupted jobs to come out of their ``finally`` blocks.
_OUT: Final = 0.5


class ThreadsPool:
    """``size`` threads that take jobs from one queue.

    Limits are exceptions thrown into the thread, so a job inside a C call (``time.sleep``, a lock, a
    socket without timeout) does not notice them until the call returns. A job that is not gone
    ``patience`` seconds after its hard limit is abandoned: it ends as TimedOut, a fresh thread takes
    its place, and what it does later is dropped. ``abandoned`` counts them.
    """

    def __init__(self, size: int, *, patience: float = 1.0) -> None:
        if size < 1:
            raise ImproperlyConfigured(f"a pool of threads has at least 1, not {size}")
        self._size = size
        self._patience = patience
        self._runner: Runner | None = None
        self._queue: SimpleQueue[tuple[Any, Done] | None] = SimpleQueue()
        self._dog = Watchdog("cloudq-threads-watchdog")
        self._changed = threading.Condition()
        self._places: set[_Place] = set()
        self._stopping = False
        self._closed = False
        self._deadline = math.inf
        self._serial = 0
        self._pid = os.getpid()
        self.abandoned = 0

    @property
    def size(self) -> int:
        """How many jobs run at once."""
        return self._size

    def start(self, spec: RunnerSpec, runner: Runner | None = None) -> None:
        """As Pool.start."""
        self._runner = runner if runner is not None else runners.make(spec)
        self._dog.start()
        with self._changed:
            for _ in range(self._size):
                self._hire()

    def submit(self, job: Any, done: Done) -> None:
        """As Pool.submit."""
        if self._stopping:
            tell(done, Returned())
            return
        self._queue.put((job, done))
        if self._late():  # stop() may have looked into the queue just before
            self._give_back()

    def resize(self, size: int) -> None:
        """As Resizable.resize: threads too many leave after the jobs that are queued before."""
        if size < 1:
            raise ValueError(f"a pool of threads has at least 1, not {size}")
        with self._changed:
            change, self._size = size - self._size, size
            if self._stopping or self._runner is None:
                return
            for _ in range(change):
                self._hire()
            for _ in range(-change):
                self._queue.put(None)

    def stop(self, grace: float) -> None:
        """As Pool.stop. Called from a job's ``done`` it does not wait."""
        with self._changed:
            first, self._stopping = not self._stopping, True
            self._deadline = min(self._deadline, time.monotonic() + grace)
            places = len(self._places)
            self._changed.notify_all()
        self._give_back()
        if first:
            for _ in range(places + 1):  # one to spare: a thread may just be replaced
                self._queue.put(None)
        if any(place.thread is threading.current_thread() for place in tuple(self._places)):
            threading.Thread(target=self._finish, name="cloudq-threads-stop").start()
        else:
            self._finish()

    def active(self) -> list[Active]:
        """As Steerable.active."""
        running = [place.running for place in tuple(self._places)]
        return [Active(each.job, each.since, self._pid) for each in running if each is not None]

    def cancel(self, job: Any, running: bool) -> bool:
        """As Steerable.cancel. Jobs that wait are not reached."""
        for place in tuple(self._places) if running else ():
            now = place.running
            if now is not None and now.job is job:
                return place.watch.cancel(now.claim)
        return False

    # --- stopping -----------------------------------------------------------------------------

    def _finish(self) -> None:
        self._wait()
        with self._changed:
            close, self._closed = not self._closed, True
        if close:
            self._dog.close()
            runners.close(self._runner)

    def _late(self) -> bool:
        return self._stopping

    def _give_back(self) -> None:
        """End what has not been started as Returned; leave the threads' word to go in the queue."""
        leaving = 0
        try:
            while True:
                item = self._queue.get_nowait()
                if item is None:
                    leaving += 1
                else:
                    tell(item[1], Returned())
        except Empty:
            for _ in range(leaving):
                self._queue.put(None)

    def _wait(self) -> None:
        with self._changed:
            while self._places and (left := self._deadline - time.monotonic()) > 0:
                self._changed.wait(min(left, threading.TIMEOUT_MAX))
            places = list(self._places)
        for place in places:
            place.watch.interrupt()
        with self._changed:
            self._changed.wait_for(lambda: not self._places, _OUT)
            places = list(self._places)
        for place in places:
            if (claim := place.watch.claim) is not None:
                claim.tell(Died("the pool was stopped while it ran; its thread may still be running"))

    # --- threads ------------------------------------------------------------------------------

    def _hire(self) -> None:
        self._serial += 1
        place = _Place(self, self._serial)
        self._places.add(place)
        self._dog.add(place.watch)
        place.thread.start()

    def _leave(self, place: _Place) -> None:
        with self._changed:
            self._places.discard(place)
            self._dog.remove(place.watch)
            self._changed.notify_all()

    def _abandon(self, place: _Place, claim: Claim) -> None:
        """On the watchdog's thread: the job there ignores its hard limit."""
        done = claim.take()
        if done is None:  # it has just ended
            return
        limit = place.watch.limit
        with self._changed:
            self.abandoned += 1
            self._leave(place)
            if not self._stopping:
                self._hire()
        logger.error(
            "a job ignores its hard limit of %g s; its thread %s is given up (%d so far). "
            "Threads cannot be killed: give blocking calls a timeout, or use the prefork pool",
            limit,
            place.thread.name,
            self.abandoned,
        )
        tell(done, TimedOut(limit))

    def _serve(self, place: _Place) -> None:
        runner = self._runner
        assert runner is not None
        watch, get = place.watch, self._queue.get
        while (item := get()) is not None:
            job, done = item
            if self._stopping:
                tell(done, Returned())
                continue
            watch.claim = claim = Claim(done)
            place.running = _Running(job, time.time(), claim)  # after it: who sees us can cancel us
            try:
                end: End = guarded(runner, job, watch)
            except BaseException as error:  # noqa: BLE001  KeyboardInterrupt has no business here
                end = runners.broken(error)
            del item, job, done  # an idle thread keeps no job alive
            if not claim.tell(end):
                return  # given up meanwhile: another thread has this place
            watch.claim = place.running = None
            del claim, end


class _Running:
    """The job that a thread has: since when."""

    __slots__ = ("claim", "job", "since")

    def __init__(self, job: Any, since: float, claim: Claim) -> None:
        self.job = job
        self.since = since
        self.claim = claim


class _Place:
    """One thread of the pool and what it is doing."""

    def __init__(self, pool: ThreadsPool, number: int) -> None:
        self._pool = pool
        self.watch = ThreadWatch(pool._dog, lambda claim: pool._abandon(self, claim), pool._patience)
        self.running: _Running | None = None
        self.thread = threading.Thread(target=self._main, name=f"cloudq-threads-{number}", daemon=True)

    def _main(self) -> None:
        try:
            self._pool._serve(self)
        finally:
            self._pool._leave(self)
