"""What workers with nothing to do cost: calls and CPU a minute, all of them at the same time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack

from benchmarks.field import process
from benchmarks.field.contestants.roster import Contestant
from benchmarks.field.figures import Figures, difference, total
from benchmarks.field.ground import Ground

#: Seconds until all have started and settled.
SETTLE = 8.0


def measure(ground: Ground, contestants: Sequence[Contestant], seconds: float, figures: Figures) -> None:
    """Each worker on an empty queue of its own."""
    with ExitStack() as stack:
        workers = {
            each.key: stack.enter_context(ground.worker(each, ground.new_queue(each))) for each in contestants
        }
        time.sleep(SETTLE)
        trees = {key: process.tree(pid) for key, pid in workers.items()}
        before = {each.key: ground.counts(each, "worker") for each in contestants}
        cpu = {key: process.cpu_seconds(pids) for key, pids in trees.items()}
        began = time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - began
        for each in contestants:
            calls = total(difference(ground.counts(each, "worker"), before[each.key]))
            figures.add(each.key, "idle", calls / took * 60)
            spent = process.cpu_seconds(trees[each.key]) - cpu[each.key]
            figures.add(each.key, "idle_cpu", spent / took * 100)
