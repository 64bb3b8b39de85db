"""The contract of a broker: a queue with visibility timeouts, as SQS has it.

Implementations inherit nothing; ``cloudq.testing.contracts`` proves them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from msgspec import Struct, field
from msgspec.structs import replace


@dataclass(frozen=True, slots=True)
class BrokerCapabilities:
    """What a broker can do. Seconds and bytes."""

    #: Largest message in UTF-8 bytes, attributes included; also the limit of one batch.
    max_body: int = 1_048_576
    #: Longest per-message delay, seconds (SQS: 900).
    max_delay: float = 900.0
    #: Longest a message may stay invisible, counted from its receipt, seconds (SQS: 43,200).
    max_invisible: float = 43_200.0
    #: Most messages in one call.
    max_batch: int = 10
    #: Longest wait of one receive, seconds (SQS: 20).
    max_wait: float = 20.0
    #: FIFO queues (names ending in ``.fifo``) are supported.
    ordered: bool = True
    #: Where the messages live: "process", "machine" or "cloud".
    reach: str = "cloud"


class Message(Struct, frozen=True):
    """A message on its way out."""

    body: str
    #: Seconds before it may be received, 0..max_delay. Not on FIFO queues (Unsupported).
    delay: float = 0.0
    #: FIFO: the order group. Standard queue: the tenant of SQS fair queues.
    group_id: str | None = None
    #: FIFO: messages with the same id within 5 minutes are accepted once.
    dedup_id: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)

    def with_(self, **changes: Any) -> Message:
        """A copy with these fields changed."""
        return replace(self, **changes)


class Delivery(Struct, frozen=True):
    """A message that was received and is invisible to others until ``invisible_until``."""

    queue: str
    message_id: str
    body: str
    #: Proof of this receipt; a later receipt of the same message has another.
    receipt: str
    #: How many times the message was received, this one included.
    receive_count: int
    #: Seconds since the epoch.
    sent_at: float
    first_received_at: float
    received_at: float
    invisible_until: float
    group_id: str | None = None
    dedup_id: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)

    def with_(self, **changes: Any) -> Delivery:
        """A copy with these fields changed."""
        return replace(self, **changes)


@dataclass(frozen=True, slots=True)
class Refused:
    """One entry that a batch call did not accept.

    ``lost``: the receipt is no longer valid, somebody else may hold the message; otherwise the
    same call may work later.
    """

    delivery: Delivery
    code: str
    message: str
    lost: bool


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """Approximate numbers of messages: ready, held by a consumer, waiting for their delay."""

    visible: int
    in_flight: int
    delayed: int

    @property
    def total(self) -> int:
        return self.visible + self.in_flight + self.delayed


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """What a consumer must know of a queue. Seconds."""

    name: str
    fifo: bool
    visibility_timeout: float
    #: The dead-letter queue's name, or None when the queue has none.
    dead_letter_queue: str | None
    #: Receipts after which the broker itself moves a message there, or None.
    max_receive_count: int | None


class Broker(Protocol):
    """A message queue service. May raise QueueNotFound and the other OperationalErrors.

    All methods may be called from several threads at once.
    """

    @property
    def capabilities(self) -> BrokerCapabilities: ...

    @property
    def url(self) -> str:
        """Where this is, for logs and errors; without credentials."""
        ...

    def send(self, queue: str, messages: Sequence[Message]) -> list[str]:
        """Send all; return their message ids in order. Any number; batched inside.

        Raises MessageTooLarge or Unsupported before anything is sent; SendError when only some
        were refused (after retrying what may be retried).
        """
        ...

    def receive(self, queue: str, limit: int, wait: float, invisible: float) -> list[Delivery]:
        """Up to ``limit`` messages, waiting up to ``wait`` seconds for the first.

        They stay invisible for ``invisible`` seconds. ``limit`` above ``max_batch`` is allowed
        and means "as many as one call gives".
        """
        ...

    def ack(self, deliveries: Sequence[Delivery]) -> list[Refused]:
        """Delete for good; what was refused comes back. A stale receipt is ``lost`` or ignored."""
        ...

    def release(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> list[Refused]:
        """Give back: visible again after ``delay`` seconds."""
        ...

    def extend(self, deliveries: Sequence[Delivery], invisible: float) -> list[Refused]:
        """Stay invisible for ``invisible`` seconds from now; ``Refused.lost`` = lease is lost."""
        ...

    def bury(self, delivery: Delivery, reason: str, detail: str = "") -> None:
        """Move to the queue's dead-letter queue: send there, then delete here.

        The copy keeps body, group and attributes and gains ``cloudq-reason``, ``cloudq-detail``,
        ``cloudq-queue`` (origin) and ``cloudq-buried-at`` (ISO-8601, UTC).
        Raises NoDeadLetterQueue (an Unsupported) when the queue has none.
        """
        ...

    def describe(self, queue: str) -> QueueInfo:
        """The queue's attributes; may be cached for a minute."""
        ...

    def depth(self, queue: str) -> QueueDepth:
        """Approximate numbers of messages."""
        ...

    def purge(self, queue: str) -> None:
        """Delete every message of the queue."""
        ...

    def close(self) -> None:
        """Give back connections; wakes up waiting receives. Idempotent."""
        ...


@runtime_checkable
class Interruptible(Protocol):
    """A broker that can cut waiting receives short."""

    def interrupt(self, threads: Collection[int]) -> None:
        """Have the receives that these threads (``ident``) wait in come back at once: with messages that
        have arrived, else with an OperationalError. Any thread; never blocks."""
        ...


@runtime_checkable
class Foreseeing(Protocol):
    """A broker that knows since when its messages could be had."""

    def next_visible(self, queue: str) -> float | None:
        """When the next message of the queue can be received, or could be since (epoch seconds); None when
        it is empty."""
        ...


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """A queue to create. ``max_receive_count`` is the redrive limit; retention in seconds."""

    name: str
    visibility_timeout: float = 60.0
    max_receive_count: int = 5
    retention: float = 345_600.0
    dead_letter_queue: str | None = None  # None: the default name, see dead_letter_name()


class QueueAdmin(Protocol):
    """Creating and listing queues: for the CLI and tests, never used by the runtime."""

    def create_queue(self, spec: QueueSpec) -> list[str]:
        """Create the queue and its dead-letter queue; return the names created. Idempotent."""
        ...

    def delete_queue(self, queue: str) -> None:
        """Delete one queue and what is in it."""
        ...

    def list_queues(self, prefix: str = "") -> Iterable[str]:
        """Names of the existing queues."""
        ...


#: Attributes that bury() adds.
REASON = "cloudq-reason"
DETAIL = "cloudq-detail"
ORIGIN = "cloudq-queue"
BURIED_AT = "cloudq-buried-at"
BURY_ATTRIBUTES = (REASON, DETAIL, ORIGIN, BURIED_AT)
#: Holds the original attributes as JSON when they would not fit beside the four above (SQS: ten).
PACKED = "cloudq-attributes"


def is_fifo(queue: str) -> bool:
    """FIFO queues are told by their name, as in SQS."""
    return queue.endswith(".fifo")


def dead_letter_name(queue: str) -> str:
    """The default name of a queue's dead-letter queue: ``orders-dlq``, ``orders-dlq.fifo``."""
    return f"{queue[:-5]}-dlq.fifo" if is_fifo(queue) else f"{queue}-dlq"


def message_size(message: Message) -> int:
    """Bytes that count against SQS's limit: body, plus names, types and values of attributes."""
    body = message.body
    size = len(body) if body.isascii() else len(body.encode("utf-8", "surrogatepass"))
    for name, value in message.attributes.items():
        size += len(name) + len("String") + len(value.encode("utf-8", "surrogatepass"))
    return size
