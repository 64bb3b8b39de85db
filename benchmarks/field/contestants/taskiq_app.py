"""taskiq with taskiq-aio-sqs, tuned: receives of ten; bulk sends by its own batching."""

from __future__ import annotations

import asyncio
import time

from taskiq_aio_sqs import SQSBroker

from benchmarks.field.contestants.surroundings import QUEUE, REGION, URL, note


def connected(batching: bool) -> SQSBroker:
    return SQSBroker(
        QUEUE,
        endpoint_url=URL,
        region_name=REGION,
        wait_time_seconds=20,
        max_number_of_messages=10,
        enable_batching=batching,
        batch_timeout=0.1,
    )


broker = connected(batching=False)


@broker.task(task_name="noop")
async def noop() -> None:
    pass


@broker.task(task_name="stamp")
async def stamp(sent: float) -> None:
    note(sent)


class Sender:
    """What ``publisher.py`` asks for. One event loop for the process's life."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.run_until_complete(broker.startup())
        self.batching = connected(batching=True)
        self.loop.run_until_complete(self.batching.startup())
        self.batched = self.batching.register_task(noop.original_func, "noop")

    def single(self, count: int) -> None:
        async def send() -> None:
            for _ in range(count):
                await noop.kiq()

        self.loop.run_until_complete(send())

    def bulk(self, count: int) -> None:
        async def send() -> None:
            for _ in range(count):
                await self.batched.kiq()
            while any(not buffer.empty() for buffer in self.batching._batch_buffers.values()):
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.3)  # the last batch lingers for batch_timeout, then it is sent

        self.loop.run_until_complete(send())

    def stamp(self) -> None:
        self.loop.run_until_complete(stamp.kiq(time.time()))
