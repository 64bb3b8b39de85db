"""Collecting messages of batch tasks: one job for the pool of up to so many of them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from cloudq.brokers.base import Delivery
from cloudq.pools.base import End, Finished
from cloudq.registry import Registry
from cloudq.runtime.verdict import Abandon, Release
from cloudq.serializers.peek import peek

logger = logging.getLogger("cloudq.worker")


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Deliveries that one run handles."""

    deliveries: tuple[Delivery, ...]


def deliveries_of(job: Any) -> tuple[Delivery, ...]:
    """What a pool's job consists of."""
    return job.deliveries if isinstance(job, Batch) else (job,)


class _Open:
    """A batch that still takes messages."""

    __slots__ = ("deliveries", "due")

    def __init__(self, due: float) -> None:
        self.due = due
        self.deliveries: list[Delivery] = []


class Batches:
    """A batch starts when it is full or its first message has waited long enough.

    Messages of one queue and task go together. They are held under their leases meanwhile. Of
    a batch that is to start, those go for which ``admit(delivery)`` says so; ``hand_on(job)`` has it run.
    """

    def __init__(
        self,
        tasks: Registry,
        admit: Callable[[Delivery], bool],
        hand_on: Callable[[Batch], None],
        holds: Callable[[Delivery], bool],
    ) -> None:
        self._tasks = tasks
        self._any = any(tasks[name].batch is not None for name in tasks)
        self._admit = admit
        self._hand_on = hand_on
        self._holds = holds
        self._changed = threading.Condition()
        self._open: dict[tuple[str, str], _Open] = {}
        self._running: dict[str, Batch] = {}
        self._closed = False
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        return sum(len(each.deliveries) for each in tuple(self._open.values()))

    def add(self, delivery: Delivery) -> bool:
        """Collect it; False when it is no message of a batch task."""
        if not self._any:
            return False
        task = self._tasks.get(peek(delivery.body, delivery.message_id).task)
        if task is None or task.batch is None:
            return False
        key = (delivery.queue, task.name)
        full: _Open | None = None
        with self._changed:
            if self._closed:
                return False
            found = self._open.get(key)
            if found is None:
                found = self._open[key] = _Open(time.monotonic() + task.batch_wait)
            found.deliveries.append(delivery)
            if len(found.deliveries) >= task.batch:
                full = self._open.pop(key)
            else:
                self._wake()
        if full is not None:
            self._start(full)
        return True

    def job_of(self, delivery: Delivery) -> Delivery | Batch:
        """The pool's job that this delivery is, or is part of."""
        return self._running.get(delivery.receipt, delivery)

    def ends(self, job: Delivery | Batch, end: End) -> Iterator[tuple[Delivery, End]]:
        """The end of a pool's job as the ends of its deliveries."""
        if not isinstance(job, Batch):
            yield job, end
            return
        for position, delivery in enumerate(job.deliveries):
            self._running.pop(delivery.receipt, None)
            own = end
            if isinstance(end, Finished):
                verdict = end.reply[position]
                if isinstance(verdict, Abandon) and self._holds(delivery):
                    verdict = Release(0.0)  # another's lease was lost: a child knows only of all together
                own = Finished(verdict)
            yield delivery, own

    def close(self) -> Iterable[Delivery]:
        """Collect no more; what was collected is handed back."""
        with self._changed:
            self._closed = True
            rest = [each for found in self._open.values() for each in found.deliveries]
            self._open.clear()
            self._changed.notify()
        return rest

    def _start(self, found: _Open) -> None:
        job = Batch(tuple(each for each in found.deliveries if self._admit(each)))
        if job.deliveries:
            self._running.update((each.receipt, job) for each in job.deliveries)
            self._hand_on(job)

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="cloudq-batches", daemon=True)
            self._thread.start()
        self._changed.notify()

    def _run(self) -> None:
        while (found := self._next()) is not None:
            try:
                self._start(found)
            except Exception:
                logger.exception("a batch could not be started; its messages come back by themselves")

    def _next(self) -> _Open | None:
        with self._changed:
            while not self._closed:
                if not self._open:
                    self._changed.wait()
                    continue
                key = min(self._open, key=lambda each: self._open[each].due)
                rest = self._open[key].due - time.monotonic()
                if rest <= 0:
                    return self._open.pop(key)
                self._changed.wait(rest)
            return None
