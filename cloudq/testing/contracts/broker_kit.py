"""What the tests of a broker share: its abilities, its queues, and how they take messages."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from cloudq.brokers.base import Delivery, QueueSpec


class BrokerKit:
    """Give fixtures ``broker`` (with QueueAdmin) and, on a manual clock, ``advance``.

    What an emulator or a service does otherwise is said by the class attributes below.
    """

    #: The broker makes queues on first use: a missing one is no error.
    creates_queues = False
    #: A stale receipt is refused as ``lost`` by extend (some emulators accept it).
    knows_stale_receipts = True
    #: ... and so is one whose message somebody else has received since (moto accepts it).
    fences_former_holders = True
    #: A deduplication id is remembered after its message was deleted (moto forgets it).
    remembers_dedup_ids = True
    #: ``advance`` moves a clock by hand, so that days cost nothing: the long windows are tried too.
    manual_clock = False
    #: ``fifo`` queues deduplicate and keep order.
    fifo = True
    #: Seconds that a short visibility timeout lasts; brokers count whole seconds on SQS.
    short = 1.0

    @pytest.fixture
    def advance(self) -> Callable[[float], None]:
        """Let time pass; a suite on a manual clock overrides it."""
        return time.sleep

    @pytest.fixture
    def spare_broker(self) -> Any:
        """A broker that a test may close while a receive waits; the suite of a service that cannot
        call a poll back (SQS) gives none."""
        pytest.skip("this suite gives no broker to close")

    @pytest.fixture
    def queue(self, broker: Any) -> str:
        """A fresh standard queue with a dead-letter queue."""
        return self.make(broker)

    @pytest.fixture
    def fifo_queue(self, broker: Any) -> str:
        """A fresh FIFO queue."""
        if not self.fifo or not broker.capabilities.ordered:
            pytest.skip("this broker has no FIFO queues")
        return self.make(broker, ".fifo")

    def make(self, broker: Any, suffix: str = "", **spec: Any) -> str:
        """Create a queue with a name of its own."""
        name = f"t-{uuid.uuid4().hex[:12]}{suffix}"
        broker.create_queue(QueueSpec(name, **spec))
        return name

    def take(
        self, broker: Any, queue: str, count: int = 1, invisible: float = 30.0, wait: float = 2.0
    ) -> list[Delivery]:
        """Receive until ``count`` messages are there."""
        found: list[Delivery] = []
        for _ in range(20):
            found += broker.receive(queue, min(10, count - len(found)), wait if not found else 1.0, invisible)
            if len(found) >= count:
                break
        return found
