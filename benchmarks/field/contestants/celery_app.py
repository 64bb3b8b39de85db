"""Celery on SQS with its threads pool: remote control and events off, as SQS wants it."""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Celery, chord, group

from benchmarks.field.contestants.surroundings import PORT, QUEUE, REGION, RESULTS, TABLE, URL, note

KEYS = f"{os.environ['AWS_ACCESS_KEY_ID']}:{os.environ['AWS_SECRET_ACCESS_KEY']}"
app = Celery("field", broker=f"sqs://{KEYS}@127.0.0.1:{PORT}//")
app.conf.update(
    broker_transport_options={
        "region": REGION,
        "is_secure": False,
        "predefined_queues": {QUEUE: {"url": f"{URL}/000000000000/{QUEUE}"}},
    },
    result_backend=f"dynamodb://@127.0.0.1:{PORT}/{TABLE}-celery" if RESULTS else None,
    task_default_queue=QUEUE,
    task_ignore_result=not RESULTS,
    worker_enable_remote_control=False,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
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
        group(noop.s() for _ in range(count)).delay()

    def stamp(self) -> None:
        stamp.delay(time.time())

    def chord(self, count: int) -> Any:
        return chord([noop.s() for _ in range(count)], total.s()).delay().get(timeout=60)
