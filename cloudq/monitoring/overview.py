"""Everything at a glance: queues, workers, what runs, what has ended. For ``cloudq top`` and dashboards."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cloudq.brokers.base import Broker
from cloudq.clock import Clock
from cloudq.control.control import Control
from cloudq.control.roster import WorkerInfo
from cloudq.errors import OperationalError
from cloudq.monitoring.history import Entry, History


@dataclass(frozen=True, slots=True)
class QueueView:
    """One queue: approximate numbers of messages; ``error`` says why there are none."""

    name: str
    ready: int | None = None
    in_flight: int | None = None
    delayed: int | None = None
    #: In its dead-letter queue; None when it has none.
    dead: int | None = None
    paused: bool = False
    #: Live workers that consume it.
    workers: int = 0
    error: str | None = None

    @property
    def backlog_per_worker(self) -> float | None:
        """Ready messages for each live worker: what scaling goes by."""
        return None if self.ready is None else self.ready / max(1, self.workers)


@dataclass(frozen=True, slots=True)
class Running:
    """A task that a worker named in its last sign of life. ``since``: seconds since the epoch."""

    id: str
    name: str
    queue: str
    worker: str
    since: float


@dataclass(frozen=True, slots=True)
class Overview:
    """One look at everything, at ``at`` (seconds since the epoch)."""

    at: float
    queues: list[QueueView]
    workers: list[WorkerInfo]
    running: list[Running]
    recent: list[Entry]

    @property
    def alive(self) -> list[WorkerInfo]:
        """Workers that gave a sign of life lately."""
        return [each for each in self.workers if each.alive(self.at)]


def overview(
    *,
    broker: Broker,
    control: Control,
    history: History,
    clock: Clock,
    queues: Iterable[str] = (),
    recent: int = 50,
) -> Overview:
    """Look once: a listing and a read of the workers, the board, each queue's depth, the newest history.

    ``queues`` are looked at besides those that workers consume. A queue that cannot be asked says so itself;
    raises OperationalError when the results store is away.
    """
    now = clock.time()
    workers = control.workers()
    paused = control.paused()
    alive = [each for each in workers if each.alive(now)]
    names = sorted({*queues, *paused, *(name for each in alive for name in each.queues)})
    return Overview(
        at=now,
        queues=[
            look_at(broker, name, name in paused, sum(name in each.queues for each in alive))
            for name in names
        ],
        workers=workers,
        running=sorted(
            (_running(each.hostname, task) for each in alive for task in each.running),
            key=lambda task: task.since,
        ),
        recent=history.query(recent).entries if recent else [],
    )


def look_at(broker: Broker, name: str, paused: bool = False, workers: int = 0) -> QueueView:
    """One queue and its dead letters. Never raises for a queue that cannot be asked."""
    try:
        depth = broker.depth(name)
        dead = broker.describe(name).dead_letter_queue
        return QueueView(
            name,
            depth.visible,
            depth.in_flight,
            depth.delayed,
            broker.depth(dead).total if dead else None,
            paused,
            workers,
        )
    except OperationalError as error:
        return QueueView(name, paused=paused, workers=workers, error=str(error))


def _running(worker: str, task: dict[str, Any]) -> Running:
    return Running(
        str(task.get("id", "")),
        str(task.get("name", "")),
        str(task.get("queue", "")),
        worker,
        float(task.get("since", 0.0)),
    )
