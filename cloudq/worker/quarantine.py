"""Last chances: a message that may be received no more runs in a process of its own.

A task that kills its process takes a worker of threads along, and nobody is left to say so: after
``maxReceiveCount`` deaths SQS moves the message away, and its record would stay unfinished for ever. So
the last receipt is run by a child, whose death is judged: the record says WorkerLostError.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from cloudq.brokers.base import Delivery
from cloudq.errors import ImproperlyConfigured
from cloudq.pools.base import Active, End, Pool, Remote, Returned

logger = logging.getLogger("cloudq.worker")

#: Seconds without work after which the child is let go.
IDLE: Final = 30.0

Done = Callable[[End], None]


class Quarantine:
    """A pool of one process, there only while it is needed.

    ``make()`` gives a pool that is started; ``otherwise(job)`` runs a job where others run, when there
    can be no such pool.
    """

    def __init__(
        self, make: Callable[[], Pool], otherwise: Callable[[Delivery], None], idle: float = IDLE
    ) -> None:
        self._make = make
        self._otherwise = otherwise
        self._idle = idle
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[tuple[Delivery, Done] | None] = queue.SimpleQueue()
        self._pool: Any = None  # a started Pool, often a Remote one
        self._thread: threading.Thread | None = None
        self._open: set[int] = set()
        self._stopping = False

    def submit(self, job: Delivery, done: Done) -> None:
        """As Pool.submit; one at a time."""
        logger.warning(
            "message %s of %s was received %d times without an end: its last chance is run in a process "
            "of its own",
            job.message_id,
            job.queue,
            job.receive_count,
        )
        with self._lock:
            stopping = self._stopping
            if not stopping:
                self._open.add(id(job))
                self._jobs.put((job, done))
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="cloudq-quarantine", daemon=True)
                    self._thread.start()
        if stopping:
            done(Returned())

    def active(self) -> list[Active]:
        """As Steerable.active."""
        found: list[Active] = getattr(self._pool, "active", list)()
        return found

    def cancel(self, job: Delivery, running: bool) -> bool:
        """As Steerable.cancel."""
        return bool(id(job) in self._open and getattr(self._pool, "cancel", _no)(job, running))

    def withdraw(self, job: Any) -> None:
        """As Remote.withdraw."""
        if isinstance(self._pool, Remote):
            self._pool.withdraw(job)

    def stop(self, grace: float) -> None:
        """As Pool.stop."""
        deadline = time.monotonic() + grace
        with self._lock:
            self._stopping = True
            thread, pool = self._thread, self._pool
            self._jobs.put(None)
        if pool is not None:
            pool.stop(grace)
        if thread is not None and thread is not threading.current_thread():
            thread.join(max(0.0, deadline - time.monotonic()) + 1.0)

    # --- its thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            try:
                item = self._jobs.get(timeout=self._idle)
            except queue.Empty:
                if self._retire():
                    return
                continue
            if item is None:
                break
            self._start(*item)
        while not self._jobs.empty():
            if (item := self._jobs.get_nowait()) is not None:
                self._ended(*item, Returned())
        if self._pool is not None:
            self._pool.stop(0.0)

    def _start(self, job: Delivery, done: Done) -> None:
        if self._stopping:
            self._ended(job, done, Returned())
            return
        try:
            if self._pool is None:
                pool = self._make()
                with self._lock:
                    self._pool = pool
        except (ImproperlyConfigured, OSError) as error:
            logger.error("no process could be started for message %s: %s", job.message_id, error)
            with self._lock:
                self._open.discard(id(job))
            self._otherwise(job)
            return
        if self._late():
            self._ended(job, done, Returned())
            return
        self._pool.submit(job, lambda end: self._ended(job, done, end))

    def _late(self) -> bool:
        return self._stopping

    def _ended(self, job: Delivery, done: Done, end: End) -> None:
        with self._lock:
            self._open.discard(id(job))
        done(end)

    def _retire(self) -> bool:
        """Nothing to do for a while: let the process go."""
        with self._lock:
            if self._open or not self._jobs.empty():
                return False
            pool, self._pool, self._thread = self._pool, None, None
        if pool is not None:
            pool.stop(5.0)
        return True


def _no(job: Delivery, running: bool) -> bool:
    return False
