"""One invocation's messages: standard ones side by side, FIFO groups in order, all of it in time."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from cloudq.aws_lambda.budget import Budget
from cloudq.aws_lambda.crews import collect
from cloudq.aws_lambda.job import Job
from cloudq.aws_lambda.pools import Pools
from cloudq.aws_lambda.runner import UNSTARTED, LambdaRunner
from cloudq.aws_lambda.steering import Steering
from cloudq.brokers.base import is_fifo
from cloudq.pools.base import Cancelled, Died, End, Finished, Returned, TimedOut
from cloudq.runtime.verdict import Ack

logger = logging.getLogger("cloudq.lambda")

#: Receipts that a message may use up waiting for its turn before it is let through.
_PATIENT: Final = 2


class Batch:
    """``run()`` returns when every job has its verdict, or when the answer is due."""

    def __init__(
        self,
        jobs: list[Job],
        pools: Pools,
        runner: LambdaRunner,
        steering: Steering,
        budget: Budget,
        live: set[str],
    ) -> None:
        """``live`` are the receipts whose messages we hold; a job that did not end in time leaves it."""
        self.jobs = jobs
        self._steering = steering
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
        phases = in_phases(collect(self.jobs), self._runner.knows_who_began)
        for number, lines in enumerate(phases):
            self._start(lines, first=number == 0)
            if not self._wait():
                break
        with self._changed:
            self._closed = True
            late = [job for job in self.jobs if job.ended is None]
        self._live.difference_update(job.delivery.receipt for job in self.jobs)
        return late

    def _wait(self) -> bool:
        """Until the phase is over; False when the answer is due before that."""
        while True:
            with self._changed:
                left = self._budget.answer_at - time.monotonic()
                if self._open and left > 0:
                    self._changed.wait(min(left, self._steering.pause))
                    left = self._budget.answer_at - time.monotonic()
                if not self._open or left <= 0:
                    return not self._open
            self._steering.look(self._budget)
            self._stop_revoked()

    def _stop_revoked(self) -> None:
        for job in self.jobs:
            if job.began is None or job.ended is not None or len(job.members) > 1:
                continue  # a run of several calls is no single one's to stop
            hit = self._steering.stops(job)
            if hit is not None and self._pools.cancel(job):
                logger.info("task %s[%s] is stopped: revoked by %s", job.peeked.task, job.peeked.id, hit.by)

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
        job = line[0]
        try:
            self._pools.submit(job, partial(self._ended, line, job))
        except Exception:
            logger.exception("message %s could not be started and goes back", job.delivery.message_id)
            for each in job.members:
                each.go_back("it could not be started")
            self._conclude(line, job)

    def _ended(self, line: deque[Job], job: Job, end: End) -> None:
        if isinstance(end, Finished):
            self._conclude(line, job)
            return
        if isinstance(end, Returned):
            for each in job.members:
                each.verdict = each.todo = UNSTARTED
            self._conclude(line, job)
            return
        # judging a loss asks the store; the pool's own thread must not wait for that
        judge: Callable[[], None] = partial(self._judge, line, job, end)
        try:
            threading.Thread(target=judge, name="cloudq-judge", daemon=True).start()
        except RuntimeError:  # no more threads in this sandbox: it comes again and is judged then
            logger.exception("the end of message %s could not be judged", job.delivery.message_id)
            for each in job.members:
                each.go_back("its end could not be judged")
            self._conclude(line, job)

    def _judge(self, line: deque[Job], job: Job, end: Died | TimedOut | Cancelled) -> None:
        try:
            self._runner.lost(job, end)
        finally:
            self._conclude(line, job)

    def _conclude(self, line: deque[Job], job: Job) -> None:
        with self._changed:
            if self._closed:
                return
            for each in job.members:
                each.ended = time.monotonic()
            line.popleft()
            if line and not isinstance(job.todo, Ack):
                why = f"message {job.delivery.message_id} of its group goes back to the queue"
                for each in line:  # nothing overtakes it
                    each.go_back(why)
                line.clear()
            if not line:
                self._open -= 1
                self._changed.notify_all()
                return
        self._next(line)


def in_phases(jobs: list[Job], known: bool = False) -> list[list[deque[Job]]]:
    """What may run side by side, in phases that follow one another; within a line, one after another.

    First what comes for the first time, then what was received before, and at last, each by itself, what
    was begun before and not concluded: one of these may be what killed the process. ``known``: who was begun
    is on record; so what was received twice and never begun has only found no time, and is before all others,
    lest it come to the redrive limit unrun.
    """
    lines: dict[tuple[str, ...], deque[Job]] = {}
    for job in jobs:
        delivery = job.delivery
        ordered = is_fifo(delivery.queue) and delivery.group_id is not None
        key = (delivery.queue, delivery.group_id or "") if ordered else (delivery.receipt,)
        lines.setdefault(key, deque()).append(job)
    fresh: list[deque[Job]] = []
    waited: list[deque[Job]] = []
    again: list[deque[Job]] = []
    begun: list[deque[Job]] = []
    for line in lines.values():
        if any(job.begun_before for job in line):
            begun.append(line)
        elif known and line[0].delivery.receive_count > _PATIENT:
            waited.append(line)
        else:
            (fresh if all(job.delivery.receive_count == 1 for job in line) else again).append(line)
    random.shuffle(again)
    random.shuffle(begun)
    begun.sort(key=lambda line: max(job.begun_before for job in line))
    waited.sort(key=lambda line: -line[0].delivery.receive_count)
    if waited or again or begun:
        for each in (each for job in jobs for each in job.members):
            each.ack_now = True
    return [phase for phase in (waited + fresh, again, *([line] for line in begun)) if phase]
