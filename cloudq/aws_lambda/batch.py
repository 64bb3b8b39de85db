"""One invocation's messages: standard ones side by side, FIFO groups in order, all of it in time."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from cloudq.aws_lambda.budget import Budget
from cloudq.aws_lambda.job import Job
from cloudq.aws_lambda.pools import Pools
from cloudq.aws_lambda.runner import UNSTARTED, LambdaRunner
from cloudq.brokers.base import is_fifo
from cloudq.pools.base import Cancelled, Died, End, Finished, Returned, TimedOut
from cloudq.runtime.verdict import Ack, Release


class Batch:
    """``run()`` returns when every job has its verdict, or when the answer is due."""

    def __init__(
        self, jobs: list[Job], pools: Pools, runner: LambdaRunner, budget: Budget, live: set[str]
    ) -> None:
        """``live`` are the receipts whose messages we hold; a job that did not end in time leaves it."""
        self.jobs = jobs
        self._pools = pools
        self._runner = runner
        self._budget = budget
        self._live = live
        self._changed = threading.Condition()
        self._open = 0
        self._closed = False

    def run(self) -> list[Job]:
        """Run all; returns those that did not end in time."""
        self._live.update(job.delivery.receipt for job in self.jobs)
        phases = in_phases(self.jobs)
        for number, lines in enumerate(phases):
            self._start(lines, first=number == 0)
            with self._changed:
                while self._open and (left := self._budget.answer_at - time.monotonic()) > 0:
                    self._changed.wait(left)
                if self._open:
                    break
        with self._changed:
            self._closed = True
            late = [job for job in self.jobs if job.ended is None]
        self._live.difference_update(job.delivery.receipt for job in self.jobs)
        return late

    def _start(self, lines: list[deque[Job]], first: bool) -> None:
        with self._changed:
            self._open = len(lines)
        places = {False: self._pools.concurrency, True: self._pools.coroutines}
        for line in lines:
            places[line[0].on_loop] -= 1
            line[0].first = first and places[line[0].on_loop] >= 0
            self._next(line)

    # --- lines --------------------------------------------------------------------------------

    def _next(self, line: deque[Job]) -> None:
        """Start the first of a line. Never blocks: also called from a pool's thread."""
        self._pools.submit(line[0], partial(self._ended, line, line[0]))

    def _ended(self, line: deque[Job], job: Job, end: End) -> None:
        if isinstance(end, Finished):
            self._conclude(line, job)
            return
        if isinstance(end, Returned):
            job.verdict = job.todo = UNSTARTED
            self._conclude(line, job)
            return
        # judging a loss asks the store; the pool's own thread must not wait for that
        judge: Callable[[], None] = partial(self._judge, line, job, end)
        threading.Thread(target=judge, name="cloudq-judge", daemon=True).start()

    def _judge(self, line: deque[Job], job: Job, end: Died | TimedOut | Cancelled) -> None:
        try:
            self._runner.lost(job, end)
        finally:
            self._conclude(line, job)

    def _conclude(self, line: deque[Job], job: Job) -> None:
        with self._changed:
            if self._closed:
                return
            job.ended = time.monotonic()
            line.popleft()
            if line and not isinstance(job.todo, Ack):
                why = f"message {job.delivery.message_id} of its group goes back to the queue"
                for each in line:  # nothing overtakes it
                    each.verdict = each.todo = Release(0.0)
                    each.unstarted = why
                    each.ended = job.ended
                line.clear()
            if not line:
                self._open -= 1
                self._changed.notify_all()
                return
        self._next(line)


def in_phases(jobs: list[Job]) -> list[list[deque[Job]]]:
    """What may run side by side, in phases that follow one another; within a line, one after another.

    First what comes for the first time, then what was received before, and at last, each by itself, what
    was begun before and not concluded: one of these may be what killed the process.
    """
    lines: dict[tuple[str, ...], deque[Job]] = {}
    for job in jobs:
        delivery = job.delivery
        ordered = is_fifo(delivery.queue) and delivery.group_id is not None
        key = (delivery.queue, delivery.group_id or "") if ordered else (delivery.receipt,)
        lines.setdefault(key, deque()).append(job)
    fresh: list[deque[Job]] = []
    again: list[deque[Job]] = []
    begun: list[deque[Job]] = []
    for line in lines.values():
        if any(job.begun_before for job in line):
            begun.append(line)
        else:
            (fresh if all(job.delivery.receive_count == 1 for job in line) else again).append(line)
    random.shuffle(again)
    random.shuffle(begun)
    begun.sort(key=lambda line: max(job.begun_before for job in line))
    if again or begun:
        for job in jobs:
            job.ack_now = True
    return [phase for phase in (fresh, again, *([line] for line in begun)) if phase]
