"""Sends of several threads, joined: ten messages in one SendMessageBatch cost what one costs."""

from __future__ import annotations

from collections.abc import Callable

from cloudq.brokers.base import Broker, Message, message_size
from cloudq.errors import CloudQError, OperationalError, SendError, ServiceUnavailable
from cloudq.joint import Joint, Letter


class JoinedSends:
    """Sends single messages to a broker; one per process. Each caller gets its own outcome."""

    def __init__(self, broker: Callable[[], Broker]) -> None:
        self._broker = broker
        self._queues: dict[str, Joint[Message]] = {}

    def send(self, queue: str, message: Message) -> str:
        """As ``Broker.send`` of one message; its message id.

        Messages of one thread keep their order. A caller whose thread was interrupted while somebody else
        sent its message does not know whether that went out.
        """
        joint = self._queues.get(queue)
        if joint is None:
            joint = self._queues.setdefault(queue, self._joint(queue))
        found: str = joint.do(message, message_size(message))
        return found

    def waiting(self, queue: str) -> int:
        """Messages that wait for the call under way."""
        return len(self._queues.get(queue, ()))

    def _joint(self, queue: str) -> Joint[Message]:
        def limits() -> tuple[int, int]:
            can = self._broker().capabilities
            return can.max_batch, can.max_body

        def interrupted() -> Exception:
            return ServiceUnavailable(
                f"the thread that sent the message to {queue} was interrupted; it may have been sent"
            )

        return Joint(lambda letters: _deliver(self._broker(), queue, letters), limits, interrupted)


def _deliver(broker: Broker, queue: str, letters: list[Letter[Message]]) -> None:
    """Send them, and tell each what became of it. One that cannot be sent keeps no other back."""
    try:
        found = broker.send(queue, [each.content for each in letters])
    except SendError as error:
        for position, letter in enumerate(letters):
            if position in error.failures:
                letter.fail(error.failures[position])
            else:
                letter.succeed(error.sent[position])
    except CloudQError as error:
        if len(letters) == 1 or isinstance(error, OperationalError):
            raise
        for letter in letters:  # nothing was sent, and one of them is to blame
            try:
                _deliver(broker, queue, [letter])
            except CloudQError as own:
                letter.fail(own)
    else:
        for letter, message_id in zip(letters, found, strict=True):
            letter.succeed(message_id)
