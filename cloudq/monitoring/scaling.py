"""What scaling goes by: for each queue the messages that wait, those for each worker, the age of the oldest.

Depths are the broker's own (SQS: GetQueueAttributes, approximate). SQS tells no age, only CloudWatch does
(``ApproximateAgeOfOldestMessage``); see ``Waits`` for what can be known without it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cloudq.brokers.base import Broker, Delivery, Foreseeing, QueueDepth
from cloudq.clock import Clock
from cloudq.control.roster import WorkerInfo
from cloudq.serializers.peek import peek

#: A wait that was seen tells of the queue's oldest message for so long, seconds.
TELLING: Final = 60.0


@dataclass(frozen=True, slots=True)
class Signal:
    """One queue at the moment ``at`` (seconds since the epoch). Numbers of messages are approximate."""

    queue: str
    ready: int
    in_flight: int
    delayed: int
    #: Live workers that consume it; None: they are not counted (monitoring is off, or there is no results store).
    workers: int | None
    #: Seconds that the oldest ready message has waited: exact on the embedded broker; on SQS at least so long.
    #: 0 when none is ready; None when messages are ready and nobody has received any of late.
    oldest: float | None
    at: float = 0.0

    @property
    def backlog_per_worker(self) -> float:
        """Ready messages for each live worker; all of them where there is none."""
        return self.ready / max(1, self.workers or 1)

    def plain(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "queue": self.queue,
            "ready": self.ready,
            "in_flight": self.in_flight,
            "delayed": self.delayed,
            "workers": self.workers,
            "backlog_per_worker": self.backlog_per_worker,
            "oldest_seconds": self.oldest,
            "at": self.at,
        }


def signal(
    broker: Broker, queue: str, clock: Clock, workers: int | None, waited: Iterable[float | None] = ()
) -> Signal:
    """Ask the broker once. ``waited``: waits that workers saw of late. Raises OperationalError."""
    depth = broker.depth(queue)
    now = clock.time()
    oldest = oldest_of(broker, queue, depth, now, waited)
    return Signal(queue, depth.visible, depth.in_flight, depth.delayed, workers, oldest, now)


def oldest_of(
    broker: Broker, queue: str, depth: QueueDepth, now: float, waited: Iterable[float | None] = ()
) -> float | None:
    """How long the oldest ready message of the queue has waited (``Signal.oldest``)."""
    if not depth.visible:
        return 0.0
    if isinstance(broker, Foreseeing):
        since = broker.next_visible(queue)
        return 0.0 if since is None else max(0.0, now - since)
    return max((each for each in waited if each is not None), default=None)


def measure(
    broker: Broker, clock: Clock, names: Iterable[str], workers: Sequence[WorkerInfo]
) -> list[Signal]:
    """The signals of these queues, by what live workers said of themselves. Raises OperationalError."""
    alive = [each for each in workers if each.alive(clock.time())]
    return [signal(broker, name, clock, headcount(name, alive), waits_of(name, alive)) for name in names]


def headcount(queue: str, alive: Iterable[WorkerInfo]) -> int:
    """How many of these consume the queue; one that stops, or that has paused it, does not."""
    return sum(queue in each.queues and queue not in each.paused and not each.stopping for each in alive)


def waits_of(queue: str, workers: Iterable[WorkerInfo]) -> list[float | None]:
    """What these workers' last signs of life say that messages of the queue had waited."""
    return [each.stats.get("queues", {}).get(queue, {}).get("waited") for each in workers]


class Waits:
    """How long messages had waited that a queue gave out of late.

    When a message is received for the first time that was sent (or was due) so many seconds ago, the oldest one
    had waited at least as long. That is all that can be known of a queue that tells no ages.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        #: (when, seconds), longest first: what is shorter than one that came later tells nothing.
        self._seen: deque[tuple[float, float]] = deque()
        self._lock = threading.Lock()  # a queue has several polls, each with a thread

    def note(self, deliveries: Sequence[Delivery]) -> None:
        """One poll's messages."""
        first = [each for each in deliveries if each.receive_count == 1]
        if not first:  # redelivered ones had been in somebody's hands
            return
        wait = max(map(_waited, first))
        now = self._monotonic()
        with self._lock:
            while self._seen and self._seen[-1][1] <= wait:
                self._seen.pop()
            while self._seen and self._seen[0][0] < now - TELLING:
                self._seen.popleft()
            self._seen.append((now, wait))

    def longest(self) -> float | None:
        """The longest wait within the last minute; None when nothing was received for the first time."""
        oldest = self._monotonic() - TELLING
        with self._lock:
            return next((round(wait, 3) for at, wait in self._seen if at >= oldest), None)


def _waited(delivery: Delivery) -> float:
    wait = delivery.received_at - delivery.sent_at
    if wait < 1.0:
        return max(0.0, wait)
    eta = peek(delivery.body, delivery.message_id).eta  # a delay is no wait
    due = max(delivery.sent_at, eta) if isinstance(eta, int | float) else delivery.sent_at
    return max(0.0, delivery.received_at - due)
