"""Tasks a second when every call takes 10 ms longer: what a worker does while it waits."""

from __future__ import annotations

import time

from benchmarks.field.contestants.roster import Contestant
from benchmarks.field.figures import Figures
from benchmarks.field.ground import Ground
from benchmarks.field.sizes import Sizes

#: Seconds that are added to each call.
ADDED = 0.010


def measure(ground: Ground, contestant: Contestant, sizes: Sizes, figures: Figures) -> None:
    """One round, from a full queue, with a worker of ``ground.slow_concurrency`` threads that is warm."""
    queue = ground.new_queue(contestant)
    count = sizes.slow_tasks(contestant)
    with ground.publisher(contestant, queue) as publisher:
        publisher.do("bulk", count=sizes.warm_up + count)
    ground.allow(queue, sizes.warm_up)
    with ground.worker(contestant, queue, concurrency=ground.slow_concurrency):
        done = ground.until_deleted(contestant, queue, sizes.warm_up)
        ground.set_latency(ADDED)
        try:
            began = time.perf_counter()
            ground.allow(queue, None)
            ground.until_deleted(contestant, queue, done + count)
            figures.add(contestant.key, "slow_rate", count / (time.perf_counter() - began))
        finally:
            ground.set_latency(0.0)
