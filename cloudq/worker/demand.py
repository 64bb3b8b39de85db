"""What waits for a worker in its queues: asked at most once a period, whoever wants to know."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cloudq.errors import CorruptRecord, ImproperlyConfigured, OperationalError
from cloudq.monitoring.census import Census, Count, count
from cloudq.monitoring.scaling import Signal, signal

if TYPE_CHECKING:
    from cloudq.worker.source import Source
    from cloudq.worker.worker import Worker

logger = logging.getLogger("cloudq.worker")

#: Seconds between two looks at a queue's depth: in the cloud, where each is a request, and on this machine.
EVERY: Final = (15.0, 1.0)
#: And between two looks at how many workers there are: in the cloud a read of what one of them has counted, on this
#: machine a listing and a read of their signs of life.
COUNT_EVERY: Final = (60.0, 5.0)
#: A look that is older than so many periods is no longer shown.
STALE: Final = 3.0


@dataclass(frozen=True, slots=True)
class _Look:
    at: float
    signal: Signal
    #: What this worker had received from the queue by then.
    received: int


class Demand:
    """Of one worker. Asks nobody before somebody wants to know; never raises for a queue that is away."""

    def __init__(self, worker: Worker, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._worker = worker
        self._monotonic = monotonic
        far = worker.app.broker.capabilities.reach == "cloud"
        #: Between two looks at one queue, seconds.
        self.every: float = worker.conf.worker_signals_interval or EVERY[0 if far else 1]
        if self.every < 0:
            raise ImproperlyConfigured(f"worker_signals_interval is above 0 seconds, got {self.every:g}")
        self._lock = threading.Lock()
        self._looks: dict[str, _Look] = {}
        self._asked: dict[str, float] = {}
        self._failing: set[str] = set()
        self._workers: Count | None = None
        self._counted = -float("inf")
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def follow(self) -> None:
        """Look once a period from now on, on a thread of its own: for metrics, which must not wait."""
        self._thread = threading.Thread(target=self._run, name="cloudq-demand", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(2.0)

    def signals(self) -> list[Signal]:
        """Of the queues it consumes, as they were at the last look. Asks nobody."""
        oldest = self._monotonic() - STALE * self.every
        looks = [self._looks.get(name) for name in self._worker.queues]
        return [each.signal for each in looks if each is not None and each.at >= oldest]

    def left(self) -> float | None:
        """Messages that wait for this worker: its share of each queue's, less what it has received since the
        look. Looks where that is due. None when a queue cannot be asked."""
        self.look()
        total = 0.0
        for source in self._worker.sources:
            look = self._looks.get(source.queue)
            if look is None or source.queue in self._failing:
                return None
            since = max(0, source.received - look.received)
            total += max(0.0, look.signal.backlog_per_worker - since)
        return total

    def look(self) -> None:
        """Ask those queues that were not asked within the period."""
        with self._lock:
            for source in list(self._worker.sources):
                now = self._monotonic()
                if now - self._asked.get(source.queue, -float("inf")) >= self.every:
                    self._asked[source.queue] = now
                    self._ask(source, now)

    # --- parts --------------------------------------------------------------------------------

    def _ask(self, source: Source, now: float) -> None:
        app, name, received = self._worker.app, source.queue, source.received
        try:
            counted = self._count()
            workers = None if counted is None else self._headcount(counted, name)
            waits = [source.waits.longest(), None if counted is None else counted.line(name).waited]
            self._looks[name] = _Look(now, signal(app.broker, name, app.clock, workers, waits), received)
        except OperationalError as error:
            if name not in self._failing:
                logger.warning("asking how much waits in %s: %s; trying again", name, error)
            self._failing.add(name)
        else:
            self._failing.discard(name)

    def _headcount(self, counted: Count, queue: str) -> int:
        """The live workers of a queue, this one among them whether or not it was counted."""
        here = self._worker.steering.started < counted.at
        return max(1, counted.line(queue).workers + (0 if here else 1))

    def _count(self) -> Count | None:
        """The live workers, as they were when they were last counted; None when nobody can know."""
        worker = self._worker
        if not worker.steering.on:
            return None
        now, far = self._monotonic(), worker.steering.far
        if now - self._counted >= COUNT_EVERY[0 if far else 1]:
            self._counted = now  # at once: a store that is away is not asked at every look
            try:
                self._workers = self._counted_by_all() if far else self._counted_here()
            except (OperationalError, CorruptRecord) as error:
                logger.warning("counting the workers: %s; the last count stands", error)
        return self._workers

    def _counted_by_all(self) -> Count:
        app = self._worker.app
        alive = app.control.roster.alive
        return Census(app.need_store().backend, app.conf.control_namespace, app.clock, alive).take()

    def _counted_here(self) -> Count:
        app = self._worker.app
        return count(app.control.roster.alive(), app.clock.time())

    def _run(self) -> None:
        while True:
            try:
                self.look()
            except Exception:
                logger.exception("looking at the queues' depths failed; going on")
            if self._closed.wait(self.every):
                return
