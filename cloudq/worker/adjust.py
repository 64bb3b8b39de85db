"""A worker changed while it runs: its queues, its size, options of its tasks."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cloudq.pools.base import RunnerSpec
from cloudq.priorities import siblings
from cloudq.worker.runner import override

if TYPE_CHECKING:
    from cloudq.worker.autoscale import Autoscaler
    from cloudq.worker.source import Source
    from cloudq.worker.worker import Worker


class Adjust:
    """The adjustments of one worker. ``begin`` is called once its sources are about to start."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._lock = threading.Lock()
        self._paused: frozenset[str] = frozenset()
        #: Task name to options, for children that are made anew.
        self._options: dict[str, dict[str, Any]] = {}
        self.spec: RunnerSpec | None = None
        #: There when the worker was started with --autoscale.
        self.autoscaler: Autoscaler | None = None

    # --- queues -------------------------------------------------------------------------------

    @property
    def paused(self) -> list[str]:
        """Its queues that are paused."""
        return [name for name in self._worker.queues if name in self._paused]

    def takes(self, queue: str) -> bool:
        """Are messages of this queue to be run now? A poll in flight may still bring some."""
        return queue not in self._paused and queue in self._worker.queues

    def pause(self, queues: Collection[str]) -> None:
        """These queues, and no others, are paused."""
        with self._lock:
            before, self._paused = self._paused, frozenset(queues)
            for name in self._worker.queues:
                if name in self._paused and name not in before:
                    self._end_source(name)
                elif name in before and name not in self._paused:
                    self._begin_source(name)

    def add_queue(self, queue: str) -> bool:
        """Consume this one and its siblings too; False: it does so already. Raises QueueNotFound."""
        return sum(self._add(name) for name in self._family(queue)) > 0

    def _family(self, queue: str) -> tuple[str, ...]:
        return siblings(self._worker.conf.task_queue_priorities, queue)

    def _add(self, queue: str) -> bool:
        worker = self._worker
        with self._lock:
            if queue in worker.queues:
                return False
            worker.infos[queue] = worker.app.broker.describe(queue)
            worker.queues = [*worker.queues, queue]
            if queue not in self._paused:
                self._begin_source(queue)
            return True

    def cancel_queue(self, queue: str) -> bool:
        """Consume this one and its siblings no longer; what is in hand is finished. False: it does not."""
        return sum(self._cancel(name) for name in self._family(queue)) > 0

    def _cancel(self, queue: str) -> bool:
        worker = self._worker
        with self._lock:
            if queue not in worker.queues:
                return False
            worker.queues = [name for name in worker.queues if name != queue]
            self._end_source(queue)
            return True

    def _begin_source(self, queue: str) -> None:
        if self._worker.stopping:
            return
        source: Source = self._worker.make_source(queue)
        self._worker.sources = [*self._worker.sources, source]
        source.start()

    def _end_source(self, queue: str) -> None:
        for source in self._worker.sources:
            if source.queue == queue:
                source.stop()
        self._worker.sources = [each for each in self._worker.sources if each.queue != queue]

    # --- the pool -----------------------------------------------------------------------------

    def resize(self, by: int) -> int:
        """Run so many more (or fewer) tasks at once; the new number. Raises ValueError."""
        worker = self._worker
        change = getattr(worker.pool, "resize", None)
        if change is None:
            raise ValueError(f"the {worker.pool_name} pool has one size only")
        with self._lock:
            size = worker.concurrency + by
            if size < 1:
                raise ValueError(f"it runs {worker.concurrency} at once; at least 1 must remain")
            change(size)
            worker.concurrency = size
            worker.credit.resize(worker.places(size))
            return size

    def autoscale(self, most: int, least: int) -> None:
        """Other bounds for --autoscale. Raises ValueError when the worker was started without."""
        if self.autoscaler is None:
            raise ValueError("this worker was started without --autoscale; use pool-grow and pool-shrink")
        self.autoscaler.set(most, least)

    def restart_pool(self) -> None:
        """Replace children, each after its task. Raises ValueError."""
        restart = getattr(self._worker.pool, "restart", None)
        if restart is None or self.spec is None:
            raise ValueError(
                f"the {self._worker.pool_name} pool has no processes to replace; restart the worker itself"
            )
        restart(self.spec)

    # --- tasks --------------------------------------------------------------------------------

    def set_options(self, task_name: str, options: Mapping[str, Any]) -> None:
        """Options of a task, here and in children (which are replaced, each after its task)."""
        with self._lock:
            self._options.setdefault(task_name, {}).update(options)
            override(self._worker.app, {task_name: options})
            if self.spec is not None:
                self.spec = replace(self.spec, args=(*self.spec.args[:-1], dict(self._options)))
        if hasattr(self._worker.pool, "restart"):
            self.restart_pool()
