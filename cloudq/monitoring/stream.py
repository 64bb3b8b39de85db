"""Events through the results store: workers leave them in batches, whoever watches reads them.

A batch is a document in the folder of its minute, so that a reader lists only what is new; it goes after a
quarter of an hour. Nothing is written while nothing happens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final
from urllib.parse import quote

import msgspec

from cloudq.backends.base import ResultBackend
from cloudq.clock import Clock
from cloudq.coordination import cas
from cloudq.errors import OperationalError
from cloudq.monitoring.batches import Batches
from cloudq.monitoring.events import Event
from cloudq.monitoring.feed import Beat

#: How long events are kept for those who watch, seconds.
KEPT: Final = 900.0
#: Between two batches of a worker, seconds: to a store in the cloud, and to one of this machine.
FLUSH: Final = (5.0, 0.5)
_MINUTE: Final = 60


class _Batch(msgspec.Struct, omit_defaults=True):
    events: list[dict[str, Any]]
    dropped: int = 0


class StreamSink:
    """A worker's end."""

    def __init__(self, store: ResultBackend, namespace: str, hostname: str, clock: Clock) -> None:
        self._space = quote(namespace, safe="")
        self._hostname = quote(hostname, safe="")[:200].rstrip("%")
        self._clock = clock
        self._beat = Beat(FLUSH[0 if store.capabilities.reach == "cloud" else 1])
        self._batches = Batches(store, self._document)
        self._number = 0

    def take(self, events: Sequence[Event]) -> None:
        for event in events:
            self._batches.add(msgspec.json.encode(event, enc_hook=repr))

    def tick(self) -> None:
        if self._beat.due():
            self.flush()

    def close(self) -> None:
        self.flush()

    def flush(self) -> None:
        """Write what has come."""
        self._batches.flush()

    def _document(self, lines: list[bytes], dropped: int) -> tuple[str, bytes, float]:
        now = self._clock.time()
        self._number += 1
        key = f"{folder(self._space, now)}{int(now * 1000):015d}-{self._number:06d}-{self._hostname}"
        value = b'{"events":[' + b",".join(lines) + b'],"dropped":' + str(dropped).encode() + b"}"
        return key, value, now + KEPT


class StreamReader:
    """The watching end: every event that was written since it was made, as far as it can tell by time."""

    def __init__(self, store: ResultBackend, namespace: str, clock: Clock, back: float = 0.0) -> None:
        """``back``: begin with events so many seconds old."""
        self._store = store
        self._space = quote(namespace, safe="")
        self._clock = clock
        self._since = clock.time() - min(back, KEPT)
        self._seen: dict[str, set[str]] = {}
        #: Events that workers had to drop.
        self.dropped = 0

    def read(self) -> list[Event]:
        """What is new, by time. Costs one listing a minute's folder, and a read if there is anything."""
        now = self._clock.time()
        # a worker's clock may be a little behind ours, and a batch may take its time
        folders = [
            folder(self._space, minute * _MINUTE)
            for minute in range(int(max(self._since, now - KEPT) // _MINUTE) - 1, int(now // _MINUTE) + 2)
        ]
        self._seen = {name: keys for name, keys in self._seen.items() if name in folders}
        found: list[Event] = []
        for name in folders:
            seen = self._seen.setdefault(name, set())
            keys = [key for key in self._store.keys(name) if key not in seen]
            seen.update(keys)
            for key, entry in self._store.read_many(keys).items():
                batch = cas.decode(_Batch, key, entry.value)
                self.dropped += batch.dropped
                found += [each for each in batch.events if each["timestamp"] >= self._since]
        self._since = max(self._since, now - 2 * _MINUTE)
        return sorted(found, key=lambda event: float(event["timestamp"]))

    def follow(
        self, every: float, until: Callable[[], bool], sleep: Callable[[float], None] = time.sleep
    ) -> Iterator[Event]:
        """New events until ``until()``; a store that is away is waited for."""
        while True:
            try:
                yield from self.read()
            except OperationalError:
                if until():
                    raise
            if until():
                return
            sleep(every)


def folder(space: str, at: float) -> str:
    """The folder of a minute."""
    return f"events/{space}/{int(at // _MINUTE)}/"
