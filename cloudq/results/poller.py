"""Waiting for results without hammering the store.

All waiters of a process share one poller: one thread that asks for up to a hundred records in one
read, each id once however many wait for it, each at its own pace (a few milliseconds at first,
slowing to a second). It starts with the first waiter and ends with the last.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import random
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

from cloudq import context
from cloudq.clock import SYSTEM_CLOCK, Clock
from cloudq.errors import CloudQError, CorruptRecord, ServiceUnavailable
from cloudq.results.record import Record

logger = logging.getLogger("cloudq.results")

#: Seconds between two looks at one id: first, growth factor, and last.
FIRST: Final = 0.004
GROWTH: Final = 1.4
LAST: Final = 1.0
#: Ids in one read (DynamoDB's BatchGetItem takes 100).
BATCH: Final = 100
#: Ids read together although some are due a little later, as a share of their own interval.
_EARLY: Final = 0.3

#: Called once, in the poller's thread, with the final record or with the error that ends the wait.
Callback = Callable[[Record | None, Exception | None], None]
#: Reads records by id; one that cannot be read is its own error and no other id's.
ReadEach = Callable[[Iterable[str]], Mapping[str, Record | CorruptRecord]]


class Ear(Protocol):
    """Hears that results are there (``cloudq.results.push``)."""

    def listen(self) -> None: ...
    def close(self) -> None: ...


class Ticket:
    """One waiter's place. ``cancel`` it when the waiter gives up."""

    __slots__ = ("callback", "task_id")

    def __init__(self, task_id: str, callback: Callback) -> None:
        self.task_id = task_id
        self.callback = callback


class _Target:
    """An id that somebody waits for."""

    __slots__ = ("due", "interval", "order", "task_id", "tickets")

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id
        self.tickets: set[Ticket] = set()
        self.interval = FIRST
        self.due = 0.0
        #: Its place in the queue; older places are void. 0: none, it is being read.
        self.order = 0


class Poller:
    """Calls each waiter back once, with its final record or with an error of the store.

    While the store is unavailable the waiters wait on; any other error of a read (no such table,
    access denied) ends the waits that were part of it.
    """

    def __init__(self, read_each: ReadEach, batch: int = BATCH, clock: Clock = SYSTEM_CLOCK) -> None:
        self._read_each = read_each
        self._batch = max(1, batch)
        self._clock = clock
        #: True while results are announced (``result_push``): then looking is only a safety net.
        self.announced = False
        self._ear: Ear | None = None
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._targets: dict[str, _Target] = {}
        self._queue: list[tuple[float, int, _Target]] = []
        self._orders = itertools.count(1)
        self._thread: threading.Thread | None = None
        self._away = False

    # --- the waiters' side --------------------------------------------------------------------

    def listen_with(self, ear: Ear) -> None:
        """Have ``ear`` listen for announcements while anybody waits; it calls ``look_now``."""
        self._ear = ear
        self.announced = True  # until it fails

    def watch(self, task_id: str, callback: Callback) -> Ticket:
        """Call ``callback(record, error)`` once the record is final. Runs in the poller's thread."""
        [ticket] = self.watch_all({task_id: callback})
        return ticket

    def watch_all(self, callbacks: Mapping[str, Callback]) -> list[Ticket]:
        """``watch`` for many ids at once, by id: a set of N costs about N/100 reads a round.

        A set of many batches begins at a slower pace, so that it asks the store no more often
        than a single waiter does.
        """
        if self._pid != os.getpid():  # a fork copies neither the thread nor those who waited
            self._begin()
        interval = min(LAST, FIRST * (1 + len(callbacks) // self._batch))
        if self.announced and context.current() is None:  # a task's subtasks are announced elsewhere
            interval = LAST
        tickets = [Ticket(task_id, callback) for task_id, callback in callbacks.items()]
        with self._changed:
            now = self._clock.monotonic()
            for ticket in tickets:
                target = self._targets.setdefault(ticket.task_id, _Target(ticket.task_id))
                target.tickets.add(ticket)
                target.interval = interval
                if target.order or len(target.tickets) == 1:
                    self._push(target, now + FIRST)
            if tickets and self._thread is None:
                self._thread = threading.Thread(target=self._run, name="cloudq-results", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        if self._ear is not None:
            self._ear.listen()
        return tickets

    def cancel(self, *tickets: Ticket) -> None:
        """Stop looking. A callback may still be running."""
        if self._pid != os.getpid():
            return
        with self._changed:
            for ticket in tickets:
                target = self._targets.get(ticket.task_id)
                if target is None:
                    continue
                target.tickets.discard(ticket)
                if not target.tickets:
                    del self._targets[ticket.task_id]
            self._clear_if_idle()

    def look_now(self, task_id: str) -> bool:
        """Read this id at once: somebody said that it has ended. False when nobody waits for it."""
        with self._changed:
            target = self._targets.get(task_id)
            if target is None:
                return False
            target.interval = FIRST
            if target.order:
                self._push(target, self._clock.monotonic())
                self._changed.notify_all()
            return True

    def close(self) -> None:
        """End all waits, with an error."""
        if self._ear is not None:
            self._ear.close()
        if self._pid != os.getpid():
            return
        with self._changed:
            targets = list(self._targets.values())
        for each in targets:
            self._answer(
                each, None, CloudQError(f"the app was closed while task {each.task_id} was waited for")
            )

    @property
    def waiting(self) -> int:
        """How many ids are waited for."""
        return len(self._targets) if self._pid == os.getpid() else 0

    def inside(self) -> bool:
        """Is this the poller's own thread? Whoever waits there waits for ever."""
        return threading.current_thread() is self._thread

    # --- the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        while targets := self._due():
            try:
                records = self._read_each([each.task_id for each in targets])
            except ServiceUnavailable as error:
                if not self._away:
                    logger.warning("waiting for results: %s; trying again", error)
                self._away = True
                self._again(targets, LAST)
                continue
            except Exception as error:  # noqa: BLE001  whatever it is, the waiters must hear of it
                for each in targets:
                    self._answer(each, None, error)
                continue
            if self._away:
                logger.info("waiting for results: the store answers again")
                self._away = False
            self._again([each for each in targets if not self._settled(each, records.get(each.task_id))])

    def _settled(self, target: _Target, found: Record | CorruptRecord | None) -> bool:
        if isinstance(found, CorruptRecord):
            self._answer(target, None, found)
        elif found is not None and found.final:
            self._answer(target, found, None)
        else:
            return False
        return True

    def _due(self) -> list[_Target]:
        """Wait for the next due ids; empty when nobody waits any more, and the thread ends."""
        with self._changed:
            while True:
                while self._queue and not self._valid(self._queue[0]):
                    heapq.heappop(self._queue)
                if not self._queue:
                    self._thread = None
                    return []
                now = self._clock.monotonic()
                wait = self._queue[0][0] - now
                if wait <= 0:
                    break
                self._clock.wait(self._changed, wait)
            # the head is due and valid, so this finds at least one
            targets: list[_Target] = []
            while self._queue and len(targets) < self._batch:
                due, _, target = self._queue[0]
                if due > now + _EARLY * target.interval:
                    break
                if self._valid(heapq.heappop(self._queue), target):
                    target.order = 0
                    targets.append(target)
            return targets

    def _valid(self, place: tuple[float, int, _Target], target: _Target | None = None) -> bool:
        target = target or place[2]
        return bool(target.tickets) and place[1] == target.order

    def _push(self, target: _Target, due: float) -> None:
        target.due, target.order = due, next(self._orders)
        heapq.heappush(self._queue, (due, target.order, target))

    def _again(self, targets: Iterable[_Target], interval: float | None = None) -> None:
        jitter = 0.85 + 0.3 * random.random()  # one for all: what was read together stays together
        with self._changed:
            now = self._clock.monotonic()
            for each in targets:
                if each.tickets:
                    each.interval = interval if interval is not None else min(LAST, each.interval * GROWTH)
                    self._push(each, now + each.interval * jitter)

    def _answer(self, target: _Target, record: Record | None, error: Exception | None) -> None:
        with self._changed:
            tickets, target.tickets = target.tickets, set()
            if self._targets.get(target.task_id) is target:
                del self._targets[target.task_id]
            self._clear_if_idle()
        for ticket in tickets:
            try:
                ticket.callback(record, error)
            except Exception:
                logger.exception("a callback of the result %s failed", target.task_id)

    def _clear_if_idle(self) -> None:
        if not self._targets:
            self._queue.clear()
            self._changed.notify_all()
