"""Waiting for results without hammering the store.

All waiters of a process share one poller: one thread that asks for many records in one read, each
id at its own pace (a few milliseconds at first, slowing to a second). It starts with the first
waiter and ends with the last.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import random
import threading
from collections.abc import Callable, Iterable
from typing import Final

from cloudq.clock import SYSTEM_CLOCK, Clock
from cloudq.errors import CloudQError, ServiceUnavailable
from cloudq.results.record import Record

logger = logging.getLogger("cloudq.results")

#: Seconds between two looks at one id: first, growth factor, and last.
FIRST: Final = 0.004
GROWTH: Final = 1.4
LAST: Final = 1.0
#: Ids read together although some are due a little later, as a share of their own interval.
_EARLY: Final = 0.3

Callback = Callable[[Record | None, CloudQError | None], None]


class Ticket:
    """One waiter's place. ``cancel`` it when the waiter gives up."""

    __slots__ = ("callback", "cancelled", "due", "interval", "task_id")

    def __init__(self, task_id: str, callback: Callback, due: float) -> None:
        self.task_id = task_id
        self.callback = callback
        self.interval = FIRST
        self.due = due
        self.cancelled = False


class Poller:
    """Calls each waiter back once, with its final record or with an error of the store."""

    def __init__(
        self,
        read_many: Callable[[Iterable[str]], dict[str, Record]],
        batch: int = 100,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._read_many = read_many
        self._batch = max(1, batch)
        self._clock = clock
        self._changed = threading.Condition()
        self._queue: list[tuple[float, int, Ticket]] = []
        self._order = itertools.count()
        self._thread: threading.Thread | None = None

    def watch(self, task_id: str, callback: Callback) -> Ticket:
        """Call ``callback(record, error)`` once the record is final. Runs in the poller's thread."""
        ticket = Ticket(task_id, callback, self._clock.monotonic() + FIRST)
        with self._changed:
            self._push(ticket)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="cloudq-results", daemon=True)
                self._thread.start()
            self._changed.notify()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Stop looking. The callback may still be running."""
        with self._changed:
            ticket.cancelled = True
            if all(each.cancelled for _, _, each in self._queue):
                self._queue.clear()
                self._changed.notify()

    def _push(self, ticket: Ticket) -> None:
        heapq.heappush(self._queue, (ticket.due, next(self._order), ticket))

    def _run(self) -> None:
        while tickets := self._due():
            try:
                records = self._read_many(list({each.task_id for each in tickets}))
            except ServiceUnavailable as error:
                logger.warning("waiting for results: %s; trying again", error)
                self._again(tickets, LAST)
                continue
            except CloudQError as error:
                for each in tickets:
                    self._answer(each, None, error)
                continue
            waiting = []
            for each in tickets:
                record = records.get(each.task_id)
                if record is not None and record.final:
                    self._answer(each, record, None)
                else:
                    waiting.append(each)
            self._again(waiting)

    def _due(self) -> list[Ticket]:
        """Wait for the next due ids; empty when nobody waits any more, and the thread ends."""
        with self._changed:
            while True:
                while self._queue and self._queue[0][2].cancelled:
                    heapq.heappop(self._queue)
                if not self._queue:
                    self._thread = None
                    return []
                now = self._clock.monotonic()
                wait = self._queue[0][0] - now
                if wait <= 0:
                    break
                self._clock.wait(self._changed, wait)
            # the head is due and not cancelled, so this finds at least one
            tickets: list[Ticket] = []
            while self._queue and len(tickets) < self._batch:
                due, _, ticket = self._queue[0]
                if due > now + _EARLY * ticket.interval:
                    break
                heapq.heappop(self._queue)
                if not ticket.cancelled:
                    tickets.append(ticket)
            return tickets

    def _again(self, tickets: Iterable[Ticket], interval: float | None = None) -> None:
        now = self._clock.monotonic()
        with self._changed:
            for each in tickets:
                if each.cancelled:
                    continue
                each.interval = interval if interval is not None else min(LAST, each.interval * GROWTH)
                each.due = now + each.interval * (0.85 + 0.3 * random.random())
                self._push(each)

    def _answer(self, ticket: Ticket, record: Record | None, error: CloudQError | None) -> None:
        if ticket.cancelled:
            return
        ticket.cancelled = True
        try:
            ticket.callback(record, error)
        except Exception:
            logger.exception("a callback of the result %s failed", ticket.task_id)
