"""Messages that come again: the next try, a hop, a deferral. Published first, then the old one is deleted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cloudq.brokers.base import Delivery, is_fifo
from cloudq.clock import Clock
from cloudq.message import Envelope
from cloudq.outgoing import Outgoing
from cloudq.producer import Producer
from cloudq.runtime import limits
from cloudq.runtime.naming import label
from cloudq.runtime.patience import Patience
from cloudq.runtime.verdict import ACK, Hold, Release, Verdict

#: A wait that is not worth publishing the message once more (seconds; SQS delays by whole ones).
SHORT: Final = 1.0


class Returns:
    """One per settler."""

    def __init__(self, producer: Producer, clock: Clock, patience: Patience) -> None:
        self._producer = producer
        self._clock = clock
        self._patience = patience
        #: Does the driver keep a message that is to wait under its lease (``Hold``)?
        self.can_hold = False

    def send_again(
        self, again: Envelope, delivery: Delivery, due: float, options: Mapping[str, Any] | None = None
    ) -> Verdict:
        """Publish the next try, then have this message deleted. On FIFO the message keeps its place."""
        options, queue = dict(options or {}), delivery.queue
        if "queue" in options or "priority" in options:
            options["queue"] = self._producer.queue_for(options.get("queue", queue), options.get("priority"))
        if is_fifo(queue) and "queue" not in options:
            return Release(max(0.0, due - self._clock.time()))
        call = self._producer.resend(again, options.pop("queue", queue), due, delivery.group_id)
        self._send(f"sending retry {again.retries} of {label(again)}", [call])
        return ACK

    def hop(self, envelope: Envelope, delivery: Delivery) -> Verdict:
        """Send a message on that is not due yet."""
        call = self._producer.resend(envelope, delivery.queue, envelope.eta, delivery.group_id, quiet=True)
        self._send(f"sending on {label(envelope)}", [call])
        return ACK

    def defer(self, envelope: Envelope, delivery: Delivery, due: float, last_receipt: bool) -> Verdict:
        """Have a message come back at ``due`` that a limit lets not start.

        It is published once more, marked, then deleted: a crash in between leaves two, of which the one
        that comes second is recognised by the record. A message that was received before may be just
        such a one, so it is never published again (unless ``last_receipt``: the next one would be its
        burial) but waits where it is, as does one of a FIFO queue, to keep its place, and one that
        has to wait for a moment only.
        """
        if envelope.expires is not None:
            due = min(due, envelope.expires)  # then it is known at once that it will not run
        delay = max(0.0, due - self._clock.time())
        copied = delivery.receive_count > 1 and not last_receipt
        if is_fifo(delivery.queue) or copied or (self.can_hold and delay <= SHORT):
            return Hold(delay)
        again = limits.deferred(envelope, due)
        call = self._producer.resend(again, delivery.queue, due, delivery.group_id, quiet=True)
        self._send(f"deferring {label(envelope)}", [call])
        return ACK

    def _send(self, what: str, calls: list[Outgoing]) -> None:
        self._patience.call(what, lambda: self._producer.send(calls))
