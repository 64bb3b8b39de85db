"""Everything at a glance: queues, workers, what runs, what has ended. For ``cloudq top`` and dashboards."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Any

from cloudq.brokers.base import Broker
from cloudq.clock import Clock
from cloudq.conf import Conf
from cloudq.control.control import Control
from cloudq.control.roster import WorkerInfo
from cloudq.errors import OperationalError
from cloudq.monitoring.history import Entry, History
from cloudq.monitoring.scaling import headcount, oldest_of, waits_of
from cloudq.priorities import families
from cloudq.registry import Registry


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
    #: Seconds that its oldest ready message has waited (``monitoring.scaling``); None when nobody knows.
    oldest: float | None = None

    @property
    def backlog_per_worker(self) -> float | None:
        """Ready messages for each live worker: what scaling goes by."""
        return None if self.ready is None else self.ready / max(1, self.workers)


@dataclass(frozen=True, slots=True)
class Running:
    """A task that a worker named in its last sign of life. ``since``: seconds since the epoch.

    ``lost``: the worker has vanished since; the message comes back when its visibility timeout is over.
    """

    id: str
    name: str
    queue: str
    worker: str
    since: float
    lost: bool = False


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
    entries = history.query(recent).entries if recent else []
    return Overview(
        at=now,
        queues=[
            look_at(broker, name, name in paused, headcount(name, alive), now, waits_of(name, alive))
            for name in names
        ],
        workers=workers,
        running=running_of(workers, now, ended={each.id for each in entries}),
        recent=entries,
    )


def declared_queues(tasks: Registry, conf: Conf) -> list[str]:
    """The queues that these tasks go to, as far as declarations tell, their priorities' siblings included."""
    named = {task.queue for task in (tasks[name] for name in tasks) if task.queue}
    return families(conf.task_queue_priorities, sorted({conf.task_default_queue, *named}))


def look_at(
    broker: Broker,
    name: str,
    paused: bool = False,
    workers: int = 0,
    now: float | None = None,
    waited: Iterable[float | None] = (),
) -> QueueView:
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
            oldest=None if now is None else oldest_of(broker, name, depth, now, waited),
        )
    except OperationalError as error:
        return QueueView(name, paused=paused, workers=workers, error=str(error))


def running_of(workers: Iterable[WorkerInfo], now: float, ended: Container[str] = ()) -> list[Running]:
    """The tasks that workers named in their last signs of life, the longest first.

    Those of a vanished worker are ``lost``, unless another worker has them by now, or they have ``ended``.
    """
    found: dict[str, Running] = {}
    for each in sorted(workers, key=lambda worker: worker.at):  # a later sign knows better
        for task in each.running:
            one = _running(each.hostname, task, not each.alive(now))
            elsewhere = one.id in ended or (one.id in found and not found[one.id].lost)
            if not (one.lost and elsewhere):
                found[one.id] = one
    return sorted(found.values(), key=lambda task: task.since)


def _running(worker: str, task: dict[str, Any], lost: bool) -> Running:
    return Running(
        str(task.get("id", "")),
        str(task.get("name", "")),
        str(task.get("queue", "")),
        worker,
        float(task.get("since", 0.0)),
        lost,
    )
