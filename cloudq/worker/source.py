"""One queue's messages: polls that ask for what can start soon, one on an idle queue, several on a deep one."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from cloudq.brokers.base import Broker, Delivery
from cloudq.errors import OperationalError
from cloudq.retry import backoff
from cloudq.worker.credit import Credit

logger = logging.getLogger("cloudq.worker")

#: Most polls in flight on one queue.
MAX_POLLS: Final = 8
#: A poll that has not come back this long after its wait is given up and replaced (seconds).
STUCK_AFTER: Final = 90.0
#: Longest wait of a poll that goes no further than this machine: it costs nothing to ask again, and a
#: worker that stops need not wait for it (seconds).
NEAR_WAIT: Final = 0.25


class Source:
    """Receives from one queue and hands deliveries on, in its own threads.

    ``deliver(deliveries)`` must not block for long. Errors of the broker are waited out; a poll
    that died or hangs is replaced (``supervise``).
    """

    def __init__(
        self,
        broker: Broker,
        queue: str,
        credit: Credit,
        deliver: Callable[[list[Delivery]], None],
        *,
        wait: float,
        invisible: float,
        share: int = 1,
    ) -> None:
        self.queue = queue
        self._broker = broker
        self._credit = credit
        self._deliver = deliver
        #: Polls go no further than this machine.
        self.near = broker.capabilities.reach != "cloud"
        self._wait = min(wait, NEAR_WAIT) if self.near else wait
        self._invisible = invisible
        self._share = max(1, share)
        self._stopping = threading.Event()
        self._helpers_wanted = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []
        self._lead: threading.Thread | None = None
        self._lead_since = time.monotonic()
        self._generation = 0
        self._idle = False
        #: When a poll last succeeded (monotonic seconds), and why the last one failed, if it did.
        self.last_success = time.monotonic()
        self.last_error: str | None = None
        self.received = 0
        self.polls = 0

    def start(self) -> None:
        """Begin to poll."""
        self._start_lead()
        for number in range(MAX_POLLS - 1):
            thread = threading.Thread(
                target=self._help, name=f"cloudq-poll-{self.queue}-{number + 2}", daemon=True
            )
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """No further polls. One in flight may still bring messages; they are handed on."""
        self._stopping.set()
        for _ in self._threads:
            self._helpers_wanted.release()

    def join(self, timeout: float) -> bool:
        """Wait for polls in flight; False when one is still waiting for the queue's answer."""
        deadline = time.monotonic() + timeout
        threads = [*self._threads, *([self._lead] if self._lead else [])]
        for each in threads:
            each.join(max(0.0, deadline - time.monotonic()))
        return not any(each.is_alive() for each in threads)

    def supervise(self) -> None:
        """Replace the leading poll when it is dead or stuck. Called every second or so."""
        if self._stopping.is_set() or self._lead is None:
            return
        stuck = time.monotonic() - self._lead_since > self._wait + STUCK_AFTER
        if not self._lead.is_alive() or stuck:
            logger.error(
                "the poll of queue %s %s; starting another", self.queue, "hangs" if stuck else "has died"
            )
            self._start_lead()

    def _start_lead(self) -> None:
        self._generation += 1
        self._lead_since = time.monotonic()
        self._lead = threading.Thread(
            target=self._run, args=(self._generation,), name=f"cloudq-poll-{self.queue}-1", daemon=True
        )
        self._lead.start()

    def _run(self, generation: int) -> None:
        waits = backoff(0.5, 30.0)
        while not self._stopping.is_set() and generation == self._generation:
            self._lead_since = time.monotonic()
            free = self._credit.wait(1.0)
            if free == 0:
                continue
            self._lead_since = time.monotonic()
            if self._poll(free, self._wait) is None:
                self._stopping.wait(next(waits))
            else:
                waits = backoff(0.5, 30.0)

    def _help(self) -> None:
        """Further polls: woken when the queue proved deep, asleep again once it no longer is."""
        while True:
            self._helpers_wanted.acquire()
            if self._stopping.is_set():
                return
            free = self._credit.wait(0.0)
            if free > 0:
                self._poll(free, 0.0)

    def _poll(self, free: int, wait: float) -> int | None:
        """One receive; the number of messages, or None when it failed."""
        most = min(free, self._broker.capabilities.max_batch)
        if self._idle and self._share > 1:
            most = max(
                1, min(most, free // self._share)
            )  # a long poll on an idle queue must not overdraw much
        self.polls += 1
        try:
            deliveries = self._broker.receive(self.queue, most, wait, self._invisible)
        except OperationalError as error:
            if not self._stopping.is_set():
                self.last_error = str(error)
                logger.warning("receiving from %s: %s; trying again", self.queue, error)
            return None
        self.last_success = time.monotonic()
        self.last_error = None
        self._idle = not deliveries
        if deliveries:
            self.received += len(deliveries)
            self._credit.take(len(deliveries))
            if len(deliveries) >= most and free > len(deliveries):
                self._helpers_wanted.release()
            self._deliver(deliveries)
        return len(deliveries)
