"""Verdicts carried out: acknowledgements in batches, give-backs, burials (decision 12).

A message keeps its lease until the broker has confirmed, so a slow or absent broker delays an
acknowledgement but does not turn it into a second delivery.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from cloudq.brokers.base import Broker, Delivery, Refused, is_fifo
from cloudq.errors import LeaseLost, NoDeadLetterQueue, OperationalError
from cloudq.retry import backoff
from cloudq.runtime.heartbeat import Leases
from cloudq.runtime.verdict import Abandon, Ack, Bury, Release, Verdict

logger = logging.getLogger("cloudq.worker")

#: Seconds that an acknowledgement waits for company.
LINGER: Final = 0.005
BATCH: Final = 10
#: Acknowledgements in flight at once.
ACKERS: Final = 6
#: So many may wait before the places of those that come then stay taken until they are through: a worker whose
#: acknowledgements fail must not go on receiving, or it would end up holding more than it can renew.
CROWD: Final = 100
#: A message that nowhere takes: left alone this long before it is tried again (seconds).
NOWHERE: Final = 900.0


class Disposal:
    """Carries out verdicts. ``apply`` never blocks on the network; ``flush`` waits for it."""

    def __init__(
        self, broker: Broker, leases: Leases, gone: Callable[[list[str]], None] = lambda bodies: None
    ) -> None:
        self._broker = broker
        #: Told the bodies of messages that are deleted for good: what they point to may go too.
        self._gone = gone
        self._leases = leases
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        #: Wakes those who acknowledge, one for one batch.
        self._ripe = threading.Condition(lock)
        #: queue -> (what is to be acknowledged, when the first of it came)
        self._acks: dict[str, tuple[list[Delivery], float]] = {}
        #: Acknowledgements handed in and not through yet; and whom to tell of a place that is free then.
        self._waiting = 0
        self._owed: dict[str, Callable[[], None]] = {}
        self._others: list[tuple[Delivery, Release | Bury]] = []
        self._urgent = False
        self._busy = 0
        self._closed = False
        self._threads: list[threading.Thread] = []
        #: Numbers since the start, for stats.
        self.acked = 0
        self.released = 0
        self.buried = 0

    def start(self) -> None:
        """Begin. Several threads acknowledge, so that a slow line or a queue in trouble holds up nobody."""
        loops = [(self._ack_loop, f"cloudq-acks-{n}") for n in range(1, ACKERS + 1)]
        for target, name in (*loops, (self._other_loop, "cloudq-returns")):
            thread = threading.Thread(target=target, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def apply(self, delivery: Delivery, verdict: Verdict, free: Callable[[], None] = lambda: None) -> None:
        """Have the verdict carried out; ``free`` is called when another message may take its place."""
        if isinstance(verdict, Abandon) or (isinstance(verdict, Ack) and verdict.already):
            self._leases.remove(delivery)
        elif isinstance(verdict, Ack):
            if self._queue_ack(delivery, free):
                return
        else:
            with self._changed:
                self._others.append((delivery, verdict))
                self._changed.notify_all()
        free()

    def _queue_ack(self, delivery: Delivery, free: Callable[[], None]) -> bool:
        """True when its place stays taken until it is acknowledged."""
        with self._changed:
            waiting, _ = self._acks.get(delivery.queue) or self._acks.setdefault(
                delivery.queue, ([], time.monotonic())
            )
            waiting.append(delivery)
            if len(waiting) == 1 or len(waiting) % BATCH == 0:
                self._ripe.notify()
            crowded = self._waiting >= CROWD
            if crowded:
                self._owed[delivery.receipt] = free
            self._waiting += 1
            return crowded

    def flush(self, timeout: float) -> bool:
        """Wait until everything handed in so far is done; False when time ran out."""
        deadline = time.monotonic() + timeout
        with self._changed:
            self._urgent = True
            self._ripe.notify_all()
            self._changed.notify_all()
            while self._acks or self._others or self._busy:
                rest = deadline - time.monotonic()
                if rest <= 0 or not self._changed.wait(rest):
                    break
            self._urgent = False
            return not (self._acks or self._others or self._busy)

    def close(self) -> None:
        """Stop the threads; what is not done stays undone and will be delivered again."""
        with self._changed:
            self._closed = True
            self._ripe.notify_all()
            self._changed.notify_all()
        for each in self._threads:
            each.join(2.0)

    # --- acknowledgements ---------------------------------------------------------------------

    def _ack_loop(self) -> None:
        while (taken := self._next_acks()) is not None:
            queue, deliveries = taken
            self._guarded(partial(self._ack, queue, deliveries), "acknowledging")
            with self._changed:
                self._busy -= 1
                self._waiting -= len(deliveries)
                freed = [self._owed.pop(each.receipt) for each in deliveries if each.receipt in self._owed]
                self._changed.notify_all()
            for free in freed:
                free()

    def _next_acks(self) -> tuple[str, list[Delivery]] | None:
        """One queue's next batch, once it is full or has waited long enough; None at the end."""
        with self._ripe:
            while True:
                now, pause = time.monotonic(), None
                for queue, (waiting, since) in self._acks.items():
                    rest = since + LINGER - now
                    if rest <= 0 or len(waiting) >= BATCH or self._urgent or self._closed or is_fifo(queue):
                        return queue, self._taken(queue, waiting, now)
                    pause = rest if pause is None else min(pause, rest)
                if self._closed:
                    return None
                self._ripe.wait(pause)

    def _taken(self, queue: str, waiting: list[Delivery], now: float) -> list[Delivery]:
        taken, left = waiting[:BATCH], waiting[BATCH:]
        if left:
            self._acks[queue] = (left, now)
            self._ripe.notify()
        else:
            del self._acks[queue]
        self._busy += 1
        return taken

    def _ack(self, queue: str, deliveries: list[Delivery]) -> None:
        def once(batch: list[Delivery]) -> list[Refused]:
            return self._broker.ack(batch)

        refused = self._insist(queue, deliveries, once, "acknowledging")
        for each in refused:
            logger.warning(
                "message %s of %s was settled, but not deleted (%s): it will come again and be recognised",
                each.delivery.message_id,
                queue,
                each.message,
            )
        with self._changed:
            self.acked += len(deliveries) - len(refused)
        kept = {each.delivery.receipt for each in refused}
        self._gone([each.body for each in deliveries if each.receipt not in kept])

    def _insist(
        self,
        queue: str,
        deliveries: list[Delivery],
        once: Callable[[list[Delivery]], list[Refused]],
        what: str,
    ) -> list[Refused]:
        """Try until each is done, refused for good, or no longer ours. Returns what was refused."""
        final: list[Refused] = []
        for wait in backoff(0.2, 10.0):
            try:
                refused = once(deliveries)
            except OperationalError as error:
                logger.warning("%s %d messages of %s: %s; trying again", what, len(deliveries), queue, error)
                refused = [Refused(each, "Unavailable", str(error), False) for each in deliveries]
            again = {each.delivery.receipt: each for each in refused if not each.lost}
            final += [each for each in refused if each.lost]
            for each in deliveries:
                if each.receipt not in again:
                    self._leases.remove(each)
            deliveries = [d for d in deliveries if d.receipt in again and self._leases.holds(d)]
            final += [
                each for receipt, each in again.items() if not any(d.receipt == receipt for d in deliveries)
            ]
            if not deliveries:
                return final
            if self._closed:
                return final + [again[each.receipt] for each in deliveries]
            self._wait(wait)
        raise AssertionError("backoff() never ends")

    # --- give-backs and burials ---------------------------------------------------------------

    def _other_loop(self) -> None:
        while (taken := self._next_others()) is not None:
            groups: dict[tuple[str, float], list[Delivery]] = {}
            for delivery, verdict in taken:
                if isinstance(verdict, Release):
                    groups.setdefault((delivery.queue, verdict.delay), []).append(delivery)
                else:
                    self._guarded(partial(self._bury, delivery, verdict), "burying")
            for (queue, delay), deliveries in groups.items():
                self._guarded(partial(self._release, queue, delay, deliveries), "giving back")
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()

    def _next_others(self) -> list[tuple[Delivery, Release | Bury]] | None:
        with self._changed:
            while not self._others:
                if self._closed:
                    return None
                self._changed.wait()
            taken, self._others = self._others, []
            self._busy += 1
            return taken

    def _release(self, queue: str, delay: float, deliveries: list[Delivery]) -> None:
        ceiling = self._broker.capabilities.max_invisible

        def once(batch: list[Delivery]) -> list[Refused]:
            return self._broker.release(batch, min(delay, ceiling))

        refused = self._insist(queue, deliveries, once, "giving back")
        self.released += len(deliveries) - len(refused)

    def _bury(self, delivery: Delivery, verdict: Bury) -> None:
        def once(batch: list[Delivery]) -> list[Refused]:
            self._broker.bury(batch[0], verdict.reason, verdict.detail)
            return []

        try:
            refused = self._insist(delivery.queue, [delivery], once, "burying")
        except NoDeadLetterQueue as error:
            logger.error("message %s cannot be buried (%s): %s", delivery.message_id, verdict.reason, error)
            self._release(delivery.queue, NOWHERE, [delivery])
            return
        except LeaseLost as error:
            self._leases.remove(delivery)
            logger.warning("message %s was buried, but may come again: %s", delivery.message_id, error)
            return
        self.buried += 1 - len(refused)

    # --- parts --------------------------------------------------------------------------------

    def _guarded(self, do: Callable[[], None], what: str) -> None:
        """Nothing may end these threads: an unforeseen error costs one redelivery, not the worker."""
        try:
            do()
        except Exception:
            logger.exception("%s failed", what)

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        with self._changed:
            while not self._closed and (rest := deadline - time.monotonic()) > 0:
                self._changed.wait(rest)
