"""Consuming tasks whose results are written to DynamoDB."""

from __future__ import annotations

from benchmarks.field.contestants.roster import Contestant
from benchmarks.field.figures import Figures
from benchmarks.field.ground import Ground
from benchmarks.field.measures.throughput import consume
from benchmarks.field.sizes import Sizes


def measure(ground: Ground, contestant: Contestant, sizes: Sizes, figures: Figures) -> None:
    """One round: CPU of the worker per task, with calls and units."""
    queue = ground.new_queue(contestant)
    count = sizes.warm_up + max(20, sizes.tasks(contestant) // 4)
    with ground.publisher(contestant, queue, results=True) as publisher:
        publisher.do("bulk", count=count)
    ground.allow(queue, sizes.warm_up)
    with ground.worker(contestant, queue, results=True) as worker:
        consume(ground, contestant, queue, worker, count, sizes, figures, "results")
