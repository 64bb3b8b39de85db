"""An app on memory, a clock that stands still, and workers driven by hand: for tests of what happens when."""

from __future__ import annotations

from typing import Any

from drivers import Drivers

from cloudq import CloudQ
from cloudq.brokers.base import Delivery
from cloudq.execution.call import NoWatch
from cloudq.runtime.lifecycle import Lifecycle
from cloudq.runtime.verdict import Ack, Bury
from cloudq.testing.clock import ManualClock


class Stage:
    """An app on memory with a clock, several workers' lifecycles, and notes of when tasks ran."""

    def __init__(self, clock: ManualClock | None = None, driver: str = "worker") -> None:
        self.clock = clock or ManualClock()
        self.app = CloudQ("stage", broker="memory://", backend="memory://", clock=self.clock)
        self.driver = driver
        self._drivers = Drivers(self.app, driver)
        self.starts: list[float] = []

    def note(self, *_: Any) -> None:
        self.starts.append(self.clock.time())

    def receive(self, queue: str = "cloudq") -> list[Delivery]:
        return self.app.broker.receive(queue, 10, 0.0, 60.0)

    def carry_out(self, delivery: Delivery, verdict: Any) -> None:
        if self._drivers.has_done(delivery):
            return
        if isinstance(verdict, Ack):
            self.app.broker.ack([delivery])
        elif isinstance(verdict, Bury):
            self.app.broker.bury(delivery, verdict.reason, verdict.detail)
        else:
            self.app.broker.release([delivery], verdict.delay)

    def run_all(self, *workers: Lifecycle, queue: str = "cloudq", seconds: float = 1e9) -> int:
        """Run what is queued at these workers in turn, moving the clock; how many were handled."""
        handled, end = 0, self.clock.time() + seconds
        broker: Any = self.app.broker
        while True:
            found = self.receive(queue)
            for delivery in found:
                worker = workers[handled % len(workers)]
                self.carry_out(delivery, worker.run(delivery, NoWatch()))
                handled += 1
            if found:
                continue
            at = broker.next_visible(queue)
            if at is None or at > end:
                return handled
            self.clock.advance(max(0.001, at - self.clock.time()))

    def close(self) -> None:
        self._drivers.close()
        self.app.close()

    def comes_again(self, delivery: Delivery, queue: str = "cloudq") -> None:
        """Who had it died before deleting it; what Lambda has given back comes when it is due."""
        broker: Any = self.app.broker
        if not self._drivers.has_done(delivery):
            broker.release([delivery])
        elif (at := broker.next_visible(queue)) is not None:
            self.clock.advance(max(0.001, at - self.clock.time()))

    def most_within(self, seconds: float) -> int:
        """The most starts in any window of so many seconds."""
        return max(sum(1 for each in self.starts if at <= each < at + seconds) for at in self.starts)
