"""Sending and consuming no-op tasks: CPU of the process that does it, calls, tasks a second."""

from __future__ import annotations

import statistics
import time

from benchmarks.field import process
from benchmarks.field.contestants.roster import Contestant
from benchmarks.field.figures import Figures, difference
from benchmarks.field.ground import Ground, Publisher
from benchmarks.field.sizes import Sizes


def measure(ground: Ground, contestant: Contestant, sizes: Sizes, figures: Figures) -> None:
    """One round: publish singly and in bulk, consume it, then latency and memory."""
    queue = ground.new_queue(contestant)
    with ground.publisher(contestant, queue) as publisher:
        sent = _publish(ground, contestant, publisher, sizes, figures)
        ground.allow(queue, sizes.warm_up)
        with ground.worker(contestant, queue) as worker:
            done = consume(ground, contestant, queue, worker, sent, sizes, figures, "consume")
            _latency(ground, contestant, publisher, queue, done, sizes, figures)
            for kind, megabytes in process.memory(process.tree(worker)).items():
                figures.add(contestant.key, kind, megabytes)


def _publish(
    ground: Ground, contestant: Contestant, publisher: Publisher, sizes: Sizes, figures: Figures
) -> int:
    """Fill the queue; how many tasks are in it then. CPU is taken part by part: the best part counts."""
    publisher.do("single", count=sizes.warm_up)
    sent = sizes.warm_up
    tasks = sizes.tasks(contestant)
    for order, key, count in (("single", "publish", sizes.singles(contestant)), ("bulk", "bulk", tasks)):
        before = ground.counts(contestant, "publisher")
        for part in parts(count, sizes.parts):
            figures.add(contestant.key, key, publisher.do(order, count=part)["cpu"] / part * 1e6)
        calls = difference(ground.counts(contestant, "publisher"), before)
        figures.count(contestant.key, key, calls, count)
        sent += count
    return sent


def parts(count: int, most: int) -> list[int]:
    """``count`` in about equal parts of whole tens, as far as that goes: batches are of ten."""
    size = max(10, -(-count // most // 10) * 10)
    return [min(size, count - start) for start in range(0, count, size)]


def consume(
    ground: Ground,
    contestant: Contestant,
    queue: str,
    worker: int,
    sent: int,
    sizes: Sizes,
    figures: Figures,
    key: str,
) -> int:
    """CPU and calls per task from the end of the warm-up until the queue is empty, part by part.

    The queue was allowed to give away the warm-up's messages and no more.
    """
    first = done = ground.until_deleted(contestant, queue, sizes.warm_up)
    pids = process.tree(worker)
    calls = ground.counts(contestant, "worker")
    for part in parts(sent - done, sizes.parts):
        before, began = process.cpu_seconds(pids), time.perf_counter()
        ground.allow(queue, part)
        done = ground.until_deleted(contestant, queue, done + part)
        spent, took = process.cpu_seconds(pids) - before, time.perf_counter() - began
        figures.add(contestant.key, key, spent / part * 1e6)
        if key == "consume":
            figures.add(contestant.key, "rate", part / took)
    ground.allow(queue, None)
    counted = difference(ground.counts(contestant, "worker"), calls)
    figures.count(contestant.key, key, counted, done - first)
    return done


def _latency(
    ground: Ground,
    contestant: Contestant,
    publisher: Publisher,
    queue: str,
    done: int,
    sizes: Sizes,
    figures: Figures,
) -> None:
    """Milliseconds from the call that sends a task to its first line, on an idle worker."""
    for number in range(1, sizes.stamps + 1):
        publisher.do("stamp")
        done = ground.until_deleted(contestant, queue, done + 1)
        time.sleep(0.002 * (number % 5))  # not in step with anything that polls
    lines = ground.stamps(queue).read_text().split()
    figures.add(contestant.key, "latency", statistics.median(float(line) for line in lines[3:]) * 1e3)
