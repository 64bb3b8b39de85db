"""cloudq, as its documentation shows it."""

from __future__ import annotations

import os
import time
from typing import Any

from benchmarks.field.contestants.surroundings import QUEUE, REGION, RESULTS, TABLE, URL, note
from cloudq import CloudQ, chord

#: "&group_commit=true", see cloudq_together.
_HOW = os.environ.get("FIELD_HOW", "")

app = CloudQ(
    "field",
    broker=f"sqs://?endpoint_url={URL}&region={REGION}",
    backend=f"dynamodb://{TABLE}?endpoint_url={URL}&region={REGION}{_HOW}" if RESULTS else "disabled://",
    task_default_queue=QUEUE,
    task_ignore_result=not RESULTS,
)


@app.task(name="noop")
def noop() -> int:
    return 1


@app.task(name="total")
def total(values: list[int]) -> int:
    return sum(values)


@app.task(name="stamp")
def stamp(sent: float) -> None:
    note(sent)


class Sender:
    """What ``publisher.py`` asks for."""

    def single(self, count: int) -> None:
        for _ in range(count):
            noop.delay()

    def bulk(self, count: int) -> None:
        app.send_many(noop.s() for _ in range(count))

    def stamp(self) -> None:
        stamp.delay(time.time())

    def chord(self, count: int) -> Any:
        return chord([noop.s() for _ in range(count)], total.s()).delay().get(timeout=60)
