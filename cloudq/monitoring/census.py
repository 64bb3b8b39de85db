"""How many workers consume each queue: counted by one of them now and then, read by all the others.

Each worker that wants to know would otherwise list them all, and read a document of each: with a hundred workers,
ten thousand reads a minute. A count is one document. Who finds it old claims the next one with a conditional write;
nobody waits for it, and a claim whose owner died is over after seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import quote

import msgspec

from cloudq.backends.base import ABSENT, Condition, Matches, ResultBackend, Version
from cloudq.clock import Clock
from cloudq.control.roster import WorkerInfo
from cloudq.coordination import cas
from cloudq.errors import Conflict
from cloudq.monitoring.scaling import headcount, waits_of

#: A count serves for so long, seconds: less than the minute between two looks of a worker.
FRESH: Final = 45.0
#: Whoever claimed the next count has so long to write it, seconds.
CLAIM: Final = 10.0
#: An older one tells nothing, seconds: a worker that finds it counts by itself.
USELESS: Final = 180.0


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One queue: the live workers that consume it, and the longest wait that they saw of late, seconds."""

    workers: int = 0
    waited: float | None = None


class Count(msgspec.Struct, frozen=True, omit_defaults=True):
    """The workers as they were at ``at``; ``claimed`` by one who counts anew. Seconds since the epoch."""

    at: float = 0.0
    claimed: float = 0.0
    #: Unlike any other's: a store whose versions are made of the content must tell two claims apart.
    nonce: str = ""
    queues: dict[str, Line] = {}

    def line(self, queue: str) -> Line:
        """What is known of a queue."""
        return self.queues.get(queue, Line())


def count(alive: Sequence[WorkerInfo], now: float) -> Count:
    """Of these workers, as they said of themselves."""
    names = {name for each in alive for name in each.queues}
    return Count(
        now,
        nonce=cas.nonce(),
        queues={
            name: Line(
                headcount(name, alive), max((w for w in waits_of(name, alive) if w is not None), default=None)
            )
            for name in sorted(names)
        },
    )


class Census:
    """The shared count of one namespace. Raises what the store raises, and CorruptRecord."""

    def __init__(
        self, store: ResultBackend, namespace: str, clock: Clock, alive: Callable[[], Sequence[WorkerInfo]]
    ) -> None:
        self._store = store
        self._key = f"census/{quote(namespace, safe='')}"
        self._clock = clock
        self._alive = alive

    def take(self) -> Count:
        """The present count: one read, unless it is this worker's turn to make it."""
        now = self._clock.time()
        entry = self._store.read(self._key)
        seen = Count() if entry is None else cas.decode(Count, self._key, entry.value)
        if now < seen.at + FRESH:
            return seen
        if now < seen.claimed + CLAIM:  # somebody is at it
            return self._usable(seen, now)
        claim = msgspec.structs.replace(seen, claimed=now, nonce=cas.nonce())
        try:
            mine = self._write(claim, ABSENT if entry is None else Matches(entry.version))
        except Conflict:
            return self._usable(seen, now)
        made = count(self._alive(), now)
        try:
            self._write(made, Matches(mine))
        except Conflict:  # it took longer than a claim lasts: another has counted meanwhile
            pass
        return made

    def _usable(self, seen: Count, now: float) -> Count:
        return seen if now < seen.at + USELESS else count(self._alive(), now)

    def _write(self, value: Count, condition: Condition) -> Version:
        expires_at = self._clock.time() + 2 * USELESS
        return self._store.write(self._key, msgspec.json.encode(value), condition, expires_at)
