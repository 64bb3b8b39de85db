"""Dramatiq with dramatiq-sqs, one process of threads."""

from __future__ import annotations

import time

import dramatiq
from botocore.config import Config
from dramatiq_sqs import SQSBroker

from benchmarks.field.contestants.surroundings import CONCURRENCY, QUEUE, URL, note

# a connection for each thread: with botocore's ten it would open new ones all the time
broker = SQSBroker(endpoint_url=URL, config=Config(max_pool_connections=CONCURRENCY + 2))
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name=QUEUE)
def noop() -> None:
    pass


@dramatiq.actor(queue_name=QUEUE)
def stamp(sent: float) -> None:
    note(sent)


class Sender:
    """What ``publisher.py`` asks for."""

    def single(self, count: int) -> None:
        for _ in range(count):
            noop.send()

    def bulk(self, count: int) -> None:
        dramatiq.group(noop.message() for _ in range(count)).run()

    def stamp(self) -> None:
        stamp.send(time.time())
