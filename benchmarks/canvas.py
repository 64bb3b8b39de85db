"""What workflows cost: calls and CPU per member of chords of 10 to 10,000, and of a chain of 100.

Calls are counted at the AWS port, on an emulator of SQS and DynamoDB that is started and stopped here:
sending, one worker's receipts, records, markers and acknowledgements, and the wait for the result.
CPU is this process's, sending and running included, on the embedded broker and store, so that no SDK and
no network is in it. The member's cost must be the same at 100 and at 10,000, within 1.3.

    .venv/bin/python benchmarks/canvas.py            # about two minutes
    .venv/bin/python benchmarks/canvas.py --cpu-only # without an emulator
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import servers  # noqa: E402

from cloudq import CloudQ, chain, chord  # noqa: E402
from cloudq.brokers.base import QueueSpec  # noqa: E402
from cloudq.execution.call import NoWatch  # noqa: E402
from cloudq.runtime.verdict import Ack  # noqa: E402

#: The largest part by which a member of a large chord may cost more than one of a chord of 100.
FLAT = 1.3
QUEUE = "bench"
ROUNDS = 3


class Counted:
    """A port whose calls are counted by operation."""

    def __init__(self, port: Any, calls: Counter[str]) -> None:
        self._port = port
        self._calls = calls

    def call(self, call: Any) -> Any:
        self._calls[call.operation] += 1
        return self._port.call(call)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._port, name)


def declare(app: CloudQ) -> tuple[Any, Any]:
    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="total")
    def total(values: list[int]) -> int:
        return sum(values)

    return add, total


def work(app: CloudQ) -> int:
    """Be a worker until nothing is queued; how many messages there were."""
    lifecycle = app.lifecycle("bench")
    handled = 0
    while deliveries := app.broker.receive(QUEUE, 10, 0.0, 600.0):
        for delivery in deliveries:
            verdict = lifecycle.run(delivery, NoWatch())
            assert isinstance(verdict, Ack), verdict
        app.broker.ack(deliveries)
        handled += len(deliveries)
    return handled


def the_chord(size: int) -> Callable[[Any, Any], Any]:
    return lambda add, total: chord([add.s(n, n) for n in range(size)], total.s())


def the_chain(size: int) -> Callable[[Any, Any], Any]:
    return lambda add, total: chain(add.s(0, 1), *[add.s(1) for _ in range(size - 1)])


CASES: dict[str, tuple[int, Callable[[Any, Any], Any]]] = {
    "chord of 10": (10, the_chord(10)),
    "chord of 100": (100, the_chord(100)),
    "chord of 1,000": (1_000, the_chord(1_000)),
    "chord of 10,000": (10_000, the_chord(10_000)),
    "chain of 100": (100, the_chain(100)),
}


def cpu(size: int, make: Callable[[Any, Any], Any]) -> float:
    """CPU microseconds per member, the best of some runs."""
    found = []
    for _ in range(max(1, min(20, 3_000 // size))):
        with CloudQ("bench", broker="memory://", backend="memory://", task_default_queue=QUEUE) as app:
            add, total = declare(app)
            workflow = make(add, total)
            app.broker.depth(QUEUE)
            begun = time.process_time()
            result = workflow.delay()
            work(app)
            result.get(timeout=10)
            found.append((time.process_time() - begun) / size * 1e6)
    return min(found)


def calls(url: str, size: int, make: Callable[[Any, Any], Any]) -> Counter[str]:
    """AWS calls of the whole workflow, by operation."""
    counted: Counter[str] = Counter()
    broker = f"sqs://?region=us-east-1&endpoint_url={url}"
    backend = f"dynamodb://bench{size}-{time.time_ns()}?region=us-east-1&endpoint_url={url}"
    with CloudQ("bench", broker=broker, backend=backend, task_default_queue=QUEUE) as app:
        parts: tuple[Any, Any] = (app.broker, app.backend)
        parts[0].create_queue(QueueSpec(QUEUE))
        parts[1].create_table()
        add, total = declare(app)
        app.broker.depth(QUEUE)
        for part in parts:
            part._port = Counted(part._port, counted)
        result = make(add, total).delay()
        work(app)
        result.get(timeout=30)
    return counted


def main() -> int:
    logging.disable(logging.CRITICAL)
    os.environ.update(AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test", AWS_DEFAULT_REGION="us-east-1")
    print("| workflow | CPU, us per member | beside a chord of 100 |")
    print("|---|---|---|")
    # in turns, so that a busy moment of the machine hits all of them
    rounds = [{name: cpu(size, make) for name, (size, make) in CASES.items()} for _ in range(ROUNDS)]
    costs = {name: min(each[name] for each in rounds) for name in CASES}
    base = costs["chord of 100"]
    for name, cost in costs.items():
        shown = f"{cost / base:.2f}" if name.startswith("chord") else ""
        print(f"| {name} | {cost:,.0f} | {shown} |")
    flat = max(costs["chord of 1,000"], costs["chord of 10,000"]) <= FLAT * base
    print(f"\nA member costs the same from 100 to 10,000, within {FLAT}: {'yes' if flat else 'NO'}\n")
    if "--cpu-only" not in sys.argv:
        with tempfile.TemporaryDirectory() as folder, servers.ministack(Path(folder)) as url:
            counts = {name: calls(url, size, make) for name, (size, make) in CASES.items() if size <= 1_000}
        names = sorted({each for counted in counts.values() for each in counted})
        print("| workflow | " + " | ".join(names) + " | per member |")
        print("|---" * (len(names) + 2) + "|")
        for name, counted in counts.items():
            cells = " | ".join(str(counted[each]) for each in names)
            print(f"| {name} | {cells} | {counted.total() / CASES[name][0]:.2f} |")
    return 0 if flat else 1


if __name__ == "__main__":
    sys.exit(main())
