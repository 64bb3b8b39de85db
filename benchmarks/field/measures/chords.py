"""A chord of no-op members: CPU and calls of the worker, and how long until its result is there."""

from __future__ import annotations

from benchmarks.field import process
from benchmarks.field.contestants.roster import Contestant
from benchmarks.field.figures import Figures, difference
from benchmarks.field.ground import Ground, Stuck
from benchmarks.field.sizes import Sizes


def measure(ground: Ground, contestant: Contestant, sizes: Sizes, figures: Figures) -> None:
    """One round: a small chord to warm up, then one of ``sizes.members``."""
    queue = ground.new_queue(contestant)
    with (
        ground.publisher(contestant, queue, results=True) as publisher,
        ground.worker(contestant, queue, results=True) as worker,
    ):
        publisher.do("chord", count=5)
        pids = process.tree(worker)
        before, calls = process.cpu_seconds(pids), ground.counts(contestant, "worker")
        answer = publisher.do("chord", count=sizes.members)
        if answer["found"] != sizes.members:
            raise Stuck(f"{contestant.title}'s chord of {sizes.members} came to {answer['found']}")
        spent = process.cpu_seconds(pids) - before
        figures.add(contestant.key, "chord", spent / sizes.members * 1e6)
        figures.add(contestant.key, "chord_wait", answer["wall"])
        counted = difference(ground.counts(contestant, "worker"), calls)
        figures.count(contestant.key, "chord", counted, sizes.members)
