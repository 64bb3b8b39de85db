"""Who works: each worker's own document, written at every heartbeat, gone a while after the last one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import quote

import msgspec

from cloudq.backends.base import ResultBackend
from cloudq.clock import Clock
from cloudq.coordination import cas
from cloudq.errors import ImproperlyConfigured

#: What a worker writes: nothing, heartbeats, also events, also history. Each includes the one before.
LEVELS: Final = ("off", "workers", "tasks", "history")
#: Heartbeats a worker may miss before it counts as lost.
MISSES: Final = 3.0
#: How long a worker that is lost is still listed, seconds.
REMEMBERED: Final = 900.0


class WorkerInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """A worker as its last heartbeat describes it. Times are seconds since the epoch, intervals seconds."""

    hostname: str
    app: str
    pid: int
    host: str
    pool: str
    concurrency: int
    queues: tuple[str, ...]
    started: float
    at: float
    #: Between two heartbeats, and between two looks at the board.
    every: float
    looks_every: float
    version: str = ""
    level: str = "workers"
    stopping: bool = False
    paused: tuple[str, ...] = ()
    stats: dict[str, Any] = {}
    #: Some of the tasks that run: id, name, queue, since when.
    running: tuple[dict[str, Any], ...] = ()

    def alive(self, now: float) -> bool:
        """Did it give a sign of life lately?"""
        return now < self.at + MISSES * self.every

    def plain(self, now: float) -> dict[str, Any]:
        """For ``--json``."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return {**found, "alive": self.alive(now)}


class Roster:
    """The workers of one namespace."""

    def __init__(self, store: ResultBackend, namespace: str, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._folder = f"workers/{quote(namespace, safe='')}/"

    def beat(self, worker: WorkerInfo) -> None:
        """A sign of life: one write."""
        expires_at = worker.at + MISSES * worker.every + REMEMBERED
        self._store.write(self._key(worker.hostname), msgspec.json.encode(worker), expires_at=expires_at)

    def leave(self, hostname: str) -> None:
        """It has stopped."""
        self._store.delete(self._key(hostname))

    def all(self) -> list[WorkerInfo]:
        """Every worker that is listed, those that are lost included, by name."""
        entries = self._store.read_many(self._store.keys(self._folder))
        found = [cas.decode(WorkerInfo, key, entry.value) for key, entry in entries.items()]
        return sorted(found, key=lambda each: each.hostname)

    def alive(self, names: Iterable[str] | None = None) -> list[WorkerInfo]:
        """Those that live, or those of ``names`` that do."""
        now, wanted = self._clock.time(), None if names is None else set(names)
        return [
            each for each in self.all() if each.alive(now) and (wanted is None or each.hostname in wanted)
        ]

    def _key(self, hostname: str) -> str:
        return self._folder + quote(hostname, safe="")


def level_of(name: str) -> int:
    """The setting ``monitoring`` as a number, 0 for off. Raises ImproperlyConfigured."""
    if name in LEVELS:
        return LEVELS.index(name)
    near = difflib.get_close_matches(name, LEVELS, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ImproperlyConfigured(f"monitoring is one of {', '.join(LEVELS)}, not {name!r}{hint}")
