"""Messages given back before the answer: visible again when their verdict says.

Reporting a message failed gives it back as well, but only after the queue's visibility timeout.
So what goes wrong here (no permission, no time) costs delay, never a message.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from cloudq.aws_lambda.aside import aside
from cloudq.brokers.base import Broker, Delivery
from cloudq.errors import AccessDenied, CloudQError

logger = logging.getLogger("cloudq.lambda")

#: Not worth beginning with less time than this, seconds.
_LEAST: Final = 0.1


class Returns:
    """One per process."""

    def __init__(self, broker: Callable[[], Broker]) -> None:
        self._broker = broker
        self._refused = False

    def give_back(self, waits: list[tuple[Delivery, float]], until: float) -> None:
        """Set each message's wait, seconds; gives up at ``until`` (monotonic). Never raises."""
        left = until - time.monotonic()
        if not waits or left < _LEAST or self._refused:
            return
        aside("giving messages back", lambda: self._all(waits, until), left)

    def _all(self, waits: list[tuple[Delivery, float]], until: float) -> None:
        groups: dict[tuple[str, float], list[Delivery]] = {}
        for delivery, wait in waits:
            groups.setdefault((delivery.queue, wait), []).append(delivery)
        for (queue, wait), deliveries in groups.items():
            if time.monotonic() > until:  # thawed after the answer: these may be somebody else's by now
                return
            try:
                broker = self._broker()
                refused = broker.release(deliveries, min(wait, broker.capabilities.max_invisible))
            except AccessDenied as error:
                self._refused = True
                logger.warning(
                    "messages go back after their queue's visibility timeout instead of when they are due: %s. "
                    "Allow sqs:ChangeMessageVisibility",
                    error,
                )
                return
            except CloudQError as error:
                logger.warning("giving %d messages back to %s: %s", len(deliveries), queue, error)
                continue
            for each in refused:
                logger.warning(
                    "message %s of %s goes back later than it should: %s",
                    each.delivery.message_id,
                    queue,
                    each.message,
                )
