"""Sends of several threads, joined: what comes while a call is under way goes out with the next one.

Ten messages in one SendMessageBatch cost what one costs, in money, in time and nearly in CPU. A caller who is
alone never waits for company.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from cloudq.brokers.base import Broker, Message, message_size
from cloudq.errors import CloudQError, OperationalError, SendError, ServiceUnavailable

#: Seconds after which one who waits looks whether anybody sends at all.
LOOK: Final = 1.0


class _Letter:
    """One caller's message: its id once it is sent, or why it was not."""

    __slots__ = ("error", "message", "message_id", "size")

    def __init__(self, message: Message) -> None:
        self.message = message
        self.size = message_size(message)
        self.message_id: str | None = None
        self.error: Exception | None = None

    @property
    def settled(self) -> bool:
        return self.message_id is not None or self.error is not None


class _Counter:
    """One queue's letters, in the order in which they came; one call at a time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._changed = threading.Condition(self.lock)
        self._waiters = 0
        self.letters: list[_Letter] = []
        #: The letter of the caller who sends now.
        self.server: _Letter | None = None

    def take(self, most: int, room: int) -> list[_Letter]:
        """The letters of the next call: at least one, at most ``most`` of ``room`` bytes together."""
        with self.lock:
            taken, size = 1, self.letters[0].size
            while taken < min(most, len(self.letters)) and size + self.letters[taken].size <= room:
                size += self.letters[taken].size
                taken += 1
            batch, self.letters = self.letters[:taken], self.letters[taken:]
            return batch

    def wait(self) -> None:
        """Until letters are settled, or another may send. Under the lock."""
        self._waiters += 1
        try:
            self._changed.wait(LOOK)
        finally:
            self._waiters -= 1

    def tell(self) -> None:
        """Some letters are settled."""
        with self.lock:
            if self._waiters:
                self._changed.notify_all()

    def leave(self, letter: _Letter) -> None:
        """Its caller goes, served or interrupted: another may send."""
        with self.lock:
            if not letter.settled and letter in self.letters:
                self.letters.remove(letter)
            if self.server is letter:
                self.server = None
            if self._waiters:
                self._changed.notify_all()


class JoinedSends:
    """Sends single messages to a broker; one per process. Each caller gets its own outcome."""

    def __init__(self, broker: Callable[[], Broker]) -> None:
        self._broker = broker
        self._counters: dict[str, _Counter] = {}

    def send(self, queue: str, message: Message) -> str:
        """As ``Broker.send`` of one message; its message id.

        Messages of one thread keep their order. A caller whose thread was interrupted while somebody else
        sent its message does not know whether that went out.
        """
        counter = self._counters.get(queue) or self._counters.setdefault(queue, _Counter())
        letter = _Letter(message)
        try:
            with counter.lock:
                counter.letters.append(letter)
                while counter.server is not None and not letter.settled:
                    counter.wait()
                if not letter.settled:
                    counter.server = letter
            while not letter.settled:  # it is our turn; letters of others may have to go first
                self._serve(queue, counter)
        finally:
            if counter.server is letter or not letter.settled:
                counter.leave(letter)
        if letter.error is not None:
            raise letter.error
        assert letter.message_id is not None
        return letter.message_id

    def _serve(self, queue: str, counter: _Counter) -> None:
        broker = self._broker()
        can = broker.capabilities
        batch = counter.take(can.max_batch, can.max_body)
        try:
            _deliver(broker, queue, batch)
        finally:
            for each in batch:
                if not each.settled:
                    each.error = ServiceUnavailable(
                        f"the thread that sent the message to {queue} was interrupted; it may have been sent"
                    )
            if len(batch) > 1:
                counter.tell()


def _deliver(broker: Broker, queue: str, batch: list[_Letter]) -> None:
    """Send them, and tell each what became of it. One that cannot be sent keeps no other back."""
    try:
        found = broker.send(queue, [each.message for each in batch])
    except SendError as error:
        for position, letter in enumerate(batch):
            letter.message_id = error.sent.get(position)
            letter.error = error.failures.get(position)
    except CloudQError as error:
        if len(batch) == 1 or isinstance(error, OperationalError):
            for letter in batch:
                letter.error = error
            return
        for letter in batch:  # nothing was sent, and one of them is to blame
            _deliver(broker, queue, [letter])
    except Exception as error:  # noqa: BLE001  a plug-in's own: each caller is to see it
        for letter in batch:
            letter.error = error
    else:
        for letter, message_id in zip(batch, found, strict=True):
            letter.message_id = message_id
