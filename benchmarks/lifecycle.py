"""What one no-op task costs a worker without the network: CPU in microseconds, by stage.

``lifecycle``: from a received message to its verdict, in one thread, and its parts: ``decode`` (the message read and
checked), ``prepare`` (with decoding: may it run?), ``execute`` and ``settle``. ``pool`` adds the pool's guard against
time limits, ``worker`` everything but the network: sources, credit, leases, sixteen threads, acknowledgements, with a
broker that only hands out what it has in memory. Nothing is stored (``task_ignore_result``, no results store), but
for ``stored``: the lifecycle of a task whose result is made a record, which a store then takes and forgets.

    .venv/bin/python benchmarks/lifecycle.py [--against FOLDER] [--alone] [--rounds 5] [--tasks 5000]

``--against`` names another checkout of this project, such as ``git worktree add /tmp/before main`` makes one: both are
measured in turns, and ratios are printed. The least of all rounds counts: whatever else the machine does only adds.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("decode", "prepare", "execute", "settle", "lifecycle", "stored", "pool", "worker")
#: Parts of a round: the best of them counts.
SLICES = 20


# --- in a process of its own: one round of one checkout -----------------------------------------------


def one_round(tasks: int, worker: bool) -> dict[str, float]:
    """Microseconds of CPU per task, by stage."""
    from cloudq import CloudQ

    app = CloudQ("bench", broker_url="memory://", result_backend="disabled://", task_ignore_result=True)
    app.conf.monitoring = "off"

    @app.task(name="noop")
    def noop(number: int) -> None:
        pass

    found = {**alone(app, tasks), "stored": stored(tasks)}
    if worker:
        found["worker"] = in_worker(app, tasks)
    app.close()
    return found


def deliveries_of(app: Any, count: int) -> list[Any]:
    """Messages as a broker hands them out."""
    from cloudq.brokers.base import Delivery

    found = []
    for number in range(count):
        call = app.producer.prepare("noop", (number,), {}, {})
        body = app.codec.encode(call.envelope, "celery")
        now = time.time()
        receipt = f"receipt-{number}"
        found.append(Delivery("celery", f"message-{number}", body, receipt, 1, now, now, now, now + 3600.0))
    return found


def alone(app: Any, tasks: int) -> dict[str, float]:
    from cloudq.pools.guard import guarded
    from cloudq.pools.watchdog import ThreadWatch, Watchdog
    from cloudq.worker.runner import WorkerRunner

    lifecycle = app.lifecycle("bench@host")
    leases = held_leases(app)
    lifecycle.settler.holds = leases.holds
    deliveries = deliveries_of(app, tasks)
    leases.add(deliveries)
    watch = ThreadWatch(Watchdog("bench"))
    runner = WorkerRunner(lifecycle)
    decode, settle = app.codec.decode, lifecycle.settle
    gc.collect()
    gc.freeze()  # what is measured is not the collector's walks through what the benchmark keeps
    found = {
        "decode": cost(
            lambda each: decode(each.body, each.queue, each.message_id, sent_at=each.sent_at), deliveries
        ),
        "prepare": cost(lifecycle.prepare, deliveries),
        "lifecycle": cost(lambda each: lifecycle.run(each, watch), deliveries),
        "pool": cost(lambda each: guarded(runner, each, watch), deliveries),
    }
    ready: list[Any] = [lifecycle.prepare(each) for each in deliveries]
    found["execute"] = cost(lambda each: lifecycle.execute(each, watch), ready)
    ended = [(each, lifecycle.execute(each, watch)) for each in ready]
    found["settle"] = cost(lambda each: settle(*each), ended)
    gc.unfreeze()
    return found


def stored(tasks: int) -> float:
    """A lifecycle with a result."""
    from cloudq import CloudQ
    from cloudq.clock import SYSTEM_CLOCK
    from cloudq.execution.call import NoWatch
    from cloudq.testing.stores import MemoryStore

    class Sink(MemoryStore):
        def write(self, *_: Any, **__: Any) -> str:
            return "1"

    app = CloudQ("bench", broker_url="memory://", backend=Sink(SYSTEM_CLOCK))

    @app.task(name="noop")
    def noop(number: int) -> int:
        return number

    lifecycle, watch = app.lifecycle("bench@host"), NoWatch()
    found = cost(lambda each: lifecycle.run(each, watch), deliveries_of(app, tasks))
    app.close()
    return found


def held_leases(app: Any) -> Any:
    from cloudq.runtime.heartbeat import Leases

    return Leases(app.broker, app.clock)


def cost(what: Callable[[Any], Any], items: Sequence[Any]) -> float:
    """Microseconds of this thread's CPU for each, in the best of some slices."""
    size = max(1, len(items) // SLICES)
    least = math.inf
    for start in range(0, len(items) - size + 1, size):
        part = items[start : start + size]
        begun = time.thread_time_ns()
        for each in part:
            what(each)
        least = min(least, time.thread_time_ns() - begun)
    return least / size / 1000


def in_worker(app: Any, tasks: int) -> float:
    """Microseconds of the process's CPU per task, from a full queue to the last acknowledgement."""
    from cloudq.worker.worker import Worker

    hand = Hand(app.broker, deliveries_of(app, tasks), warm_up=tasks // 10)
    with app.using(broker=hand):
        worker = Worker(app, ["celery"], pool="threads", concurrency=16)
        runs = threading.Thread(target=worker.run)
        runs.start()
        hand.warmed.wait(60)
        begun, done = time.process_time_ns(), hand.acked
        if not hand.through.wait(60):
            raise SystemExit(f"only {hand.acked} of {tasks} tasks were acknowledged")
        used = time.process_time_ns() - begun
        worker.stop()
        runs.join()
    return used / (hand.acked - done) / 1000


class Hand:
    """A broker that has what it is given, once, and counts acknowledgements."""

    def __init__(self, broker: Any, deliveries: list[Any], warm_up: int) -> None:
        self._broker = broker
        self._rest = deliveries[::-1]
        self._all = len(deliveries)
        self._warm_up = warm_up
        self._lock = threading.Lock()
        self.acked = 0
        self.warmed, self.through = threading.Event(), threading.Event()
        self.capabilities = broker.capabilities

    def describe(self, queue: str) -> Any:
        from cloudq.brokers.base import QueueInfo

        return QueueInfo(queue, False, 3600.0, None, None)

    def receive(self, queue: str, limit: int, wait: float, invisible: float) -> list[Any]:
        with self._lock:
            taken, self._rest = self._rest[-min(limit, 10) :][::-1], self._rest[: -min(limit, 10)]
        if not taken:
            time.sleep(wait)
        return taken

    def ack(self, deliveries: Sequence[Any]) -> list[Any]:
        with self._lock:
            self.acked += len(deliveries)
            if self.acked >= self._warm_up:
                self.warmed.set()
            if self.acked >= self._all:
                self.through.set()
        return []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)


# --- both checkouts in turns ----------------------------------------------------------------------------


def rounds(folders: Sequence[Path], count: int, options: Sequence[str]) -> list[dict[str, float]]:
    """The least of each stage, for each checkout."""
    least: list[dict[str, float]] = [{} for _ in folders]
    for _ in range(count):
        for folder, best in zip(folders, least, strict=True):
            for stage, spent in measured(folder, options).items():
                best[stage] = min(spent, best.get(stage, spent))
    return least


def measured(folder: Path, options: Sequence[str]) -> dict[str, float]:
    command = [sys.executable, __file__, "--round", *options]
    env = {**os.environ, "PYTHONPATH": str(folder), "PYTHONHASHSEED": "0"}
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{folder}: {done.stderr}")
    told: dict[str, Any] = json.loads(done.stdout)
    if Path(told["from"]).resolve() != (folder / "cloudq").resolve():
        raise SystemExit(f"{folder} was to be measured, and {told['from']} was loaded")
    return dict(told["stages"])


def lines(least: Sequence[dict[str, float]]) -> Iterator[str]:
    """A Markdown table."""
    if len(least) == 1:
        yield "| stage | CPU, us/task |\n|---|---|"
        yield from (f"| {stage} | {least[0][stage]:.1f} |" for stage in STAGES if stage in least[0])
        return
    yield "| stage | before, us/task | after, us/task | ratio |\n|---|---|---|---|"
    for stage in (each for each in STAGES if each in least[0]):
        before, after = least[1][stage], least[0][stage]
        yield f"| {stage} | {before:.1f} | {after:.1f} | {after / before:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--against", type=Path, help="another checkout of this project, to be compared with")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=5_000)
    parser.add_argument("--alone", action="store_true", help="leave out the whole worker, which is noisy")
    parser.add_argument("--round", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.round:
        import cloudq

        stages = one_round(given.tasks, not given.alone)
        print(json.dumps({"from": os.path.dirname(cloudq.__file__), "stages": stages}))
        return
    folders = [ROOT] if given.against is None else [ROOT, given.against.resolve()]
    options = ["--tasks", str(given.tasks), *(["--alone"] if given.alone else [])]
    print("\n".join(lines(rounds(folders, given.rounds, options))))


if __name__ == "__main__":
    main()
