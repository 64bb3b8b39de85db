"""What the last looks saw: numbers over time, in memory, for charts and rates."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

from cloudq.control.roster import WorkerInfo
from cloudq.dashboard.charts import Point
from cloudq.monitoring.overview import Overview, QueueView


class Numbers(NamedTuple):
    """One queue at one look; None: not known. ``rate``: messages that workers took per second."""

    at: float
    ready: int | None
    in_flight: int | None
    dead: int | None
    rate: float | None


class Ring:
    """The numbers of the last ``size`` looks of each queue."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._queues: dict[str, deque[Numbers]] = {}
        self._rates = Rates()

    def add(self, view: Overview) -> None:
        """What one look has seen."""
        rates = self._rates.of(view.alive)
        for queue in view.queues:
            kept = self._queues.setdefault(queue.name, deque(maxlen=self._size))
            kept.append(_numbers(view.at, queue, rates.get(queue.name)))
        for gone in self._queues.keys() - {each.name for each in view.queues}:
            del self._queues[gone]

    def last(self, queue: str) -> Numbers | None:
        """The newest numbers of a queue."""
        kept = self._queues.get(queue)
        return kept[-1] if kept else None

    def points(self, queue: str, name: str) -> list[Point]:
        """One number over time: ``points("fast", "ready")``."""
        return [(each.at, getattr(each, name)) for each in self._queues.get(queue, ())]

    def span(self, queue: str) -> float:
        """Seconds between the first number that is kept of a queue and the last one."""
        kept = self._queues.get(queue)
        return kept[-1].at - kept[0].at if kept else 0.0


class Rates:
    """Messages per second that each queue's workers took, by what their signs of life count."""

    def __init__(self) -> None:
        self._before: dict[tuple[str, float], tuple[float, Mapping[str, Any]]] = {}
        self._each: dict[tuple[str, float], dict[str, float]] = {}

    def of(self, workers: list[WorkerInfo]) -> dict[str, float]:
        """By queue; a queue is left out until one of its workers has given two signs of life."""
        totals: dict[str, float] = {}
        present = {(each.hostname, each.started) for each in workers}
        for key in self._before.keys() - present:
            del self._before[key]
            self._each.pop(key, None)
        for worker in workers:
            key, counts = (worker.hostname, worker.started), worker.stats.get("queues", {})
            at, before = self._before.get(key, (worker.at, counts))
            if worker.at > at:
                self._each[key] = {
                    name: max(0.0, (_received(counts, name) - _received(before, name)) / (worker.at - at))
                    for name in counts
                }
            self._before[key] = (worker.at, counts)
            for name, rate in self._each.get(key, {}).items():
                totals[name] = totals.get(name, 0.0) + rate
        return totals


def _received(counts: Mapping[str, Any], name: str) -> float:
    found = counts.get(name)
    return float(found.get("received", 0)) if isinstance(found, Mapping) else 0.0


def _numbers(at: float, queue: QueueView, rate: float | None) -> Numbers:
    return Numbers(at, queue.ready, queue.in_flight, queue.dead, rate)
