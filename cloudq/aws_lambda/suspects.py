"""Who may have killed the last invocation: messages that were begun, and never concluded.

A task that kills its process takes the invocation down, and its whole batch comes again. So that its
neighbours do not share its way to the dead-letter queue, every message that was received before is marked in
the results store when it is begun, and marked ones run last, one by one, after all others are settled and deleted:
those first that were begun the fewest times.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote

from cloudq.backends.base import ResultBackend
from cloudq.brokers.base import Delivery
from cloudq.clock import Clock
from cloudq.errors import CloudQError

logger = logging.getLogger("cloudq.lambda")

#: Seconds that a mark is kept: longer than a queue's visibility timeout can be.
KEPT: Final = 86_400.0


class Suspects:
    """Marks cost one read per batch with redelivered messages and one write per such message; none otherwise.
    Never raises: without marks, the order is left to chance."""

    def __init__(self, backend: ResultBackend | None, clock: Clock) -> None:
        self._backend = backend
        self._clock = clock

    @property
    def known(self) -> bool:
        """Is it on record who was begun?"""
        return self._backend is not None

    def marked(self, deliveries: Iterable[Delivery]) -> dict[str, int]:
        """Message id to how often it was begun before, for those that were."""
        keys = {_key(each): each.message_id for each in deliveries if each.receive_count > 1}
        if self._backend is None or not keys:
            return {}
        try:
            found = self._backend.read_many(keys)
            return {keys[each]: _times(entry.value) for each, entry in found.items()}
        except (CloudQError, ValueError) as error:
            logger.warning("looking for messages that were begun before: %s", error)
            return {}

    def mark(self, delivery: Delivery, before: int = 0) -> None:
        """This one is begun now, and was ``before`` times."""
        if self._backend is None or delivery.receive_count < 2:
            return
        try:
            self._backend.write(_key(delivery), b"%d" % (before + 1), expires_at=self._clock.time() + KEPT)
        except (CloudQError, ValueError) as error:
            logger.warning("marking message %s as begun: %s", delivery.message_id, error)


def _key(delivery: Delivery) -> str:
    return f"lambda/begun/{quote(delivery.message_id, safe='')[:200]}"


def _times(value: bytes) -> int:
    return int(value) if value.isdigit() else 1
