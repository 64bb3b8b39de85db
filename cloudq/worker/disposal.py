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

from cloudq.brokers.base import Broker, Delivery, Refused
from cloudq.errors import LeaseLost, NoDeadLetterQueue, OperationalError
from cloudq.retry import backoff
from cloudq.runtime.heartbeat import Leases
from cloudq.runtime.verdict import Abandon, Ack, Bury, Release, Verdict
from cloudq.worker.acks import Acks

logger = logging.getLogger("cloudq.worker")

#: Acknowledgements in flight at once.
ACKERS: Final = 12
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
        self._acks = Acks(ACKERS)
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        #: Wakes who gives back and buries.
        self._returns = threading.Condition(self._lock)
        self._others: list[tuple[Delivery, Release | Bury]] = []
        self._flushing = 0
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
        own = ((self._acks.linger, "cloudq-lingering"), (self._other_loop, "cloudq-returns"))
        for target, name in (*loops, *own):
            thread = threading.Thread(target=target, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def apply(self, delivery: Delivery, verdict: Verdict, free: Callable[[], None] = lambda: None) -> None:
        """Have the verdict carried out; ``free`` is called when another message may take its place."""
        if isinstance(verdict, Ack) and not verdict.already:
            if self._acks.add(delivery, free):
                return
        elif isinstance(verdict, Abandon | Ack):
            self._leases.remove(delivery)
        else:
            with self._changed:
                self._others.append((delivery, verdict))
                self._returns.notify()
        free()

    def flush(self, timeout: float) -> bool:
        """Wait until everything handed in so far is done; False when time ran out."""
        deadline = time.monotonic() + timeout
        self._acks.hurry(True)
        with self._changed:
            self._flushing += 1
            while not (done := not (self._acks.busy() or self._others or self._busy)):
                rest = deadline - time.monotonic()
                if rest <= 0:
                    break
                self._changed.wait(min(rest, 0.05))  # what is handed in meanwhile tells nobody
            self._flushing -= 1
        self._acks.hurry(False)
        return done

    def close(self) -> None:
        """Stop the threads; what is not done stays undone and will be delivered again."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._returns.notify()
        self._acks.close()
        for each in self._threads:
            each.join(2.0)

    # --- acknowledgements ---------------------------------------------------------------------

    def _ack_loop(self) -> None:
        while (line := self._acks.call()) is not None:
            again = False
            while deliveries := self._acks.take(line, again):
                again = True
                began = time.monotonic()
                self._guarded(partial(self._ack, line.queue, deliveries), "acknowledging")
                freed = self._acks.done(deliveries, time.monotonic() - began)
                if self._flushing:
                    with self._changed:
                        self._changed.notify_all()
                for free in freed:
                    free()

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
                self._returns.wait()
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
