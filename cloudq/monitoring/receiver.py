"""``app.events``: events as they happen, for whoever watches, with Celery's names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cloudq.backends.base import ResultBackend
from cloudq.clock import Clock
from cloudq.monitoring.events import TYPES, Event
from cloudq.monitoring.stream import FLUSH, StreamReader

Handler = Callable[[Event], Any]


class Events:
    """The events of one namespace. Workers write them at level ``tasks`` and above."""

    def __init__(self, store: ResultBackend, namespace: str, clock: Clock) -> None:
        self._store = store
        self._namespace = namespace
        self._clock = clock

    def reader(self, back: float = 0.0) -> StreamReader:
        """Reads what has come since; begins with events ``back`` seconds old (at most 15 minutes)."""
        return StreamReader(self._store, self._namespace, self._clock, back)

    def Receiver(  # noqa: N802  Celery's name
        self, handlers: Mapping[str, Handler] | None = None, back: float = 0.0
    ) -> Receiver:
        """Calls handlers by event type; ``"*"`` gets all for which there is no other."""
        cloud = self._store.capabilities.reach == "cloud"
        return Receiver(
            self.reader(back), handlers or {}, self._clock, FLUSH[0] / 2 if cloud else FLUSH[1] / 2
        )


class Receiver:
    """``capture()`` calls the handlers until it is told to stop."""

    def __init__(
        self, reader: StreamReader, handlers: Mapping[str, Handler], clock: Clock, every: float
    ) -> None:
        unknown = [each for each in handlers if each != "*" and each not in TYPES]
        if unknown:
            raise ValueError(f"no event is of type {unknown[0]!r}; there are {', '.join(TYPES)} and '*'")
        self.reader = reader
        self._handlers = dict(handlers)
        self._clock = clock
        self._every = every
        #: Set it to end ``capture`` and ``itercapture``.
        self.should_stop = False

    def capture(self, limit: int | None = None, timeout: float | None = None) -> int:
        """Handle events until ``limit`` of them or ``timeout`` seconds; returns how many there were."""
        return sum(1 for _ in self.itercapture(limit, timeout))

    def itercapture(self, limit: int | None = None, timeout: float | None = None) -> Iterator[Event]:
        """As ``capture``, giving each event after it was handled."""
        deadline = None if timeout is None else self._clock.monotonic() + timeout

        def over() -> bool:
            return self.should_stop or (deadline is not None and self._clock.monotonic() >= deadline)

        for count, event in enumerate(self.reader.follow(self._every, over, self._clock.sleep), 1):
            self.process(event)
            yield event
            if self.should_stop or (limit is not None and count >= limit):
                return

    def process(self, event: Event) -> None:
        """Call the event's handler."""
        handler = self._handlers.get(event["type"]) or self._handlers.get("*")
        if handler is not None:
            handler(event)
