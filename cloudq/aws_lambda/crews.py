"""Calls of a batch task that came with one invocation: one run of its function handles them together."""

from __future__ import annotations

from collections.abc import Sequence

from cloudq.aws_lambda.job import Job
from cloudq.brokers.base import is_fifo


def collect(jobs: Sequence[Job]) -> list[Job]:
    """The jobs that are to be run: each for itself, or the first of a crew for all of it.

    What comes again runs alone, as do messages of FIFO queues: one may be what killed the process, and others have
    their order.
    """
    crews: list[list[Job]] = []
    open_: dict[tuple[str, str], list[Job]] = {}
    heads: list[Job] = []
    for job in jobs:
        key = (job.delivery.queue, job.peeked.task)
        crew = open_.get(key)
        if crew is not None and _may_join(job):
            crew.append(job)
        else:
            heads.append(job)
            if job.takes > 1:
                crew = [job]
                crews.append(crew)
                if _may_join(job):
                    open_[key] = crew
        if crew is not None and len(crew) == job.takes:
            open_.pop(key, None)
    for crew in crews:
        crew[0].crew = tuple(crew)
    return heads


def _may_join(job: Job) -> bool:
    return job.delivery.receive_count == 1 and not is_fifo(job.delivery.queue)
