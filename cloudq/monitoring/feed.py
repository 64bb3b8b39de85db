"""A worker's events, from wherever they are made to every sink, on a thread of their own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Final, Protocol

from cloudq.errors import OperationalError
from cloudq.monitoring.events import Event
from cloudq.monitoring.spool import SpoolReader

logger = logging.getLogger("cloudq.monitoring")

#: Between two looks for events, seconds.
EVERY: Final = 0.25
#: Events that may wait for their sinks; more are dropped and counted.
WAITING: Final = 50_000


class Sink(Protocol):
    """Where events go. What it raises is logged, and the events are lost to it."""

    def take(self, events: Sequence[Event]) -> None:
        """Further events, in the order in which they came."""
        ...

    def tick(self) -> None:
        """Called several times a second."""
        ...

    def close(self) -> None:
        """No more of them: bring what waits to its place."""
        ...


class Feed:
    """``put`` takes an event from any thread and never waits; ``folder`` is a spool to read as well."""

    def __init__(self, sinks: Iterable[Sink], folder: str | None = None) -> None:
        self._sinks = list(sinks)
        self._reader = SpoolReader(folder) if folder is not None else None
        self._queue: SimpleQueue[Event] = SimpleQueue()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._failing: set[tuple[int, str]] = set()
        #: Events that came faster than the sinks took them.
        self.dropped = 0

    def put(self, event: Event) -> None:
        """Take an event."""
        if self._queue.qsize() >= WAITING:
            self.dropped += 1
            return
        self._queue.put(event)

    def start(self) -> None:
        """Begin to hand on."""
        self._thread = threading.Thread(target=self._run, name="cloudq-events", daemon=True)
        self._thread.start()

    def close(self, timeout: float = 5.0) -> None:
        """Hand on what has come, and close the sinks; gives up after ``timeout`` seconds."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(timeout)

    def pump(self) -> None:
        """Hand on what there is."""
        events: list[Event] = []
        if self._reader is not None:
            try:
                events += self._reader.read()
            except (OSError, ValueError) as error:
                logger.warning("reading the children's events: %s", error)
        try:
            while len(events) < WAITING:
                events.append(self._queue.get_nowait())
        except Empty:
            pass
        for sink in self._sinks:
            if events:
                self._call(sink, "taking events", partial(sink.take, events))
            self._call(sink, "writing them", sink.tick)

    def _run(self) -> None:
        while not self._closed.wait(EVERY):
            self.pump()
        self.pump()
        for sink in self._sinks:
            self._call(sink, "closing", sink.close)

    def _call(self, sink: Sink, what: str, call: Callable[[], Any]) -> None:
        key = (id(sink), what)
        try:
            call()
        except Exception as error:
            if key not in self._failing:  # said once, until it works again
                surprise = not isinstance(error, OperationalError)
                logger.warning("%s, %s: %s", type(sink).__name__, what, error, exc_info=surprise)
            self._failing.add(key)
        else:
            self._failing.discard(key)


class Beat:
    """Calls something every so many seconds: for sinks that write in batches."""

    def __init__(self, every: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._every = every
        self._monotonic = monotonic
        self._next = monotonic() + every

    def due(self) -> bool:
        """Is it time? Then the next time is ``every`` seconds from now."""
        now = self._monotonic()
        if now < self._next:
            return False
        self._next = now + self._every
        return True
