"""Leases: every message we hold stays invisible to others until it is settled (decision 2).

From receipt to acknowledgement, waiting and draining included, a message is renewed at about a
third of its visibility timeout, in batches, never past the broker's ceiling (12 hours on SQS). A
renewal that is refused, or that comes too late, means that somebody else may hold the message now:
the lease is lost.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Final

from msgspec import Struct

from cloudq.brokers.base import Broker, Delivery
from cloudq.clock import Clock
from cloudq.errors import OperationalError
from cloudq.runtime.crew import Crew

logger = logging.getLogger("cloudq.leases")

#: A lease is renewed after this share of its timeout, less up to a fifth of that as jitter.
RENEW_AT: Final = 1 / 3
#: Renewals under way at once.
CALLS: Final = 8
#: Share of the timeout between two looks at the leases.
LOOK_EVERY: Final = 1 / 12


class Lease(Struct):
    """A delivery in our hands. Times are wall-clock seconds, as the broker counts them."""

    delivery: Delivery
    timeout: float
    expires: float
    renew_at: float
    ceiling: float
    lost: bool = False
    told: bool = False
    #: It is about to be acknowledged, or has been: a refusal is no loss.
    eased: bool = False
    #: A renewal is under way.
    busy: bool = False


class Leases:
    """Renews what it holds. ``on_lost`` is called once per lost delivery.

    One thread looks what is due; the calls are made by several, so that one which hangs costs at most
    the leases of its own batch.
    """

    def __init__(
        self, broker: Broker, clock: Clock, on_lost: Callable[[Delivery], None] = lambda delivery: None
    ) -> None:
        self._broker = broker
        self._clock = clock
        self._time = clock.time
        self._on_lost = on_lost
        self._held: dict[str, Lease] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._shortest = float("inf")
        self._thread: threading.Thread | None = None
        self._crew = Crew(CALLS, "cloudq-renewals")
        #: How many leases were ever lost.
        self.lost_count = 0

    def start(self) -> None:
        """Begin to renew, in a thread of its own."""
        self._thread = threading.Thread(target=self._run, name="cloudq-leases", daemon=True)
        self._thread.start()

    def add(self, deliveries: Iterable[Delivery]) -> None:
        """Hold these from now on."""
        ceiling = self._broker.capabilities.max_invisible
        received = renew_at = -1.0  # what came together is renewed together
        with self._changed:
            for each in deliveries:
                timeout = each.invisible_until - each.received_at
                if each.received_at != received:
                    received = each.received_at
                    renew_at = self._next(received, timeout)
                self._held[each.receipt] = Lease(
                    each, timeout, each.invisible_until, renew_at, received + ceiling
                )
                if timeout < self._shortest:
                    self._shortest = timeout
                    self._changed.notify()

    def remove(self, delivery: Delivery) -> bool:
        """Stop renewing; False when the lease had been lost."""
        lease = self._held.pop(delivery.receipt, None)  # in one step: it needs no lock
        return lease is not None and not lease.lost

    def ease(self, delivery: Delivery) -> None:
        """It is about to be deleted while we go on with it (early acknowledgement): it is renewed while
        that works, and when it no longer does, nothing is lost."""
        lease = self._held.get(delivery.receipt)
        if lease is not None:
            lease.eased = True

    def lost(self, delivery: Delivery) -> bool:
        """Was its lease lost, and is it still in our hands?"""
        lease = self._held.get(delivery.receipt)
        return lease is not None and lease.lost

    def holds(self, delivery: Delivery) -> bool:
        """Is it still ours? False once the lease was lost or has run out unrenewed."""
        lease = self._held.get(delivery.receipt)
        return lease is not None and not lease.lost and self._time() < lease.expires

    def __len__(self) -> int:
        return len(self._held)

    def close(self) -> None:
        """Stop renewing anything."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(5.0)

    def beat(self) -> None:
        """Renew what is due, once, and wait for that."""
        for renewal in self._due(None):
            renewal()

    def _due(self, size: int | None) -> Iterator[Callable[[], None]]:
        """What is to be renewed now: a call for each queue and timeout, of at most ``size`` messages."""
        now = self._clock.time()
        look = self._look_every()
        with self._changed:
            held = list(self._held.values())
            due = [lease for lease in held if not (lease.lost or lease.busy) and lease.renew_at <= now + look]
            late = [lease for lease in held if lease.busy and now >= lease.expires]
            for lease in due:
                lease.busy = True
        self._lose([lease for lease in late if not lease.lost], "its renewal got no answer in time")
        batches: dict[tuple[str, float], list[Lease]] = {}
        for lease in due:
            batches.setdefault((lease.delivery.queue, lease.timeout), []).append(lease)
        for (queue, timeout), leases in batches.items():
            for start in range(0, len(leases), size or len(leases)):
                part = leases[start : start + (size or len(leases))]
                yield partial(self._renew_part, queue, timeout, part)

    def _renew_part(self, queue: str, timeout: float, leases: list[Lease]) -> None:
        try:
            self._renew(queue, timeout, leases)
        finally:
            for lease in leases:
                lease.busy = False

    def _renew(self, queue: str, timeout: float, leases: list[Lease]) -> None:
        now = self._clock.time()
        gone = [lease for lease in leases if now >= lease.expires]
        self._lose(gone, "it was not renewed in time")
        # At the ceiling the broker grants no more: what remains runs out, and holds() says so.
        able = [lease for lease in leases if not lease.lost and lease.ceiling - now > 1.0]
        if not able:
            return
        room = min(lease.ceiling for lease in able) - now
        wanted = min(timeout, room)
        before = self._clock.time()
        try:
            refused = self._broker.extend([lease.delivery for lease in able], wanted)
        except OperationalError as error:
            logger.warning("renewing %d messages of %s: %s; trying again", len(able), queue, error)
            self._postpone(able, before)
            return
        by_receipt = {each.delivery.receipt: each for each in refused}
        for lease in able:
            answer = by_receipt.get(lease.delivery.receipt)
            if answer is None:
                lease.expires = before + wanted
                lease.renew_at = (
                    self._next(before, wanted) if lease.ceiling - before > timeout else lease.expires
                )
            elif answer.lost:
                self._lose([lease], answer.message)
            else:
                self._postpone([lease], before)

    def _postpone(self, leases: list[Lease], now: float) -> None:
        for lease in leases:
            lease.renew_at = now + max(0.05, lease.timeout * LOOK_EVERY)

    def _lose(self, leases: list[Lease], why: str) -> None:
        for lease in leases:
            if lease.eased:
                lease.expires = lease.renew_at = float("inf")
                continue
            lease.lost = True
            still_held = lease.delivery.receipt in self._held
            if lease.told or not still_held:
                continue  # settled meanwhile: there was nothing left to lose
            lease.told = True
            self.lost_count += 1
            logger.warning(
                "the lease on message %s of %s is lost: %s",
                lease.delivery.message_id,
                lease.delivery.queue,
                why,
            )
            self._on_lost(lease.delivery)

    def _next(self, now: float, timeout: float) -> float:
        return now + timeout * RENEW_AT * (0.8 + 0.2 * random.random())

    def _look_every(self) -> float:
        return min(1.0, max(0.02, self._shortest * LOOK_EVERY))

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._closed:
                    self._changed.wait(self._look_every())
                if self._closed:
                    return
            try:
                for renewal in self._due(self._broker.capabilities.max_batch):
                    self._crew.do(renewal)
            except Exception:
                logger.exception("renewing leases failed; going on")
