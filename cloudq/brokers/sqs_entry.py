"""One message in SQS's spelling: ``Message`` to a send entry, a received message to ``Delivery``.

Everything SQS would refuse is refused here first, by name: limits and characters are those of
the SQS API reference (SendMessage, "Quotas related to messages").
"""

from __future__ import annotations

import json
import math
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from cloudq.brokers.base import (
    BURIED_AT,
    DETAIL,
    ORIGIN,
    PACKED,
    REASON,
    BrokerCapabilities,
    Delivery,
    Message,
    is_fifo,
    message_size,
)
from cloudq.errors import MessageTooLarge, SerializationError, Unsupported

#: SQS takes ten attributes with a message.
MAX_ATTRIBUTES: Final = 10
#: Longest ``cloudq-detail``, characters: a reason, not a log file.
MAX_DETAIL: Final = 4_096

_BAD_CHARACTER: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_ID: Final = re.compile(r"""[A-Za-z0-9!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]{1,128}""")
_ATTRIBUTE_NAME: Final = re.compile(r"(?!(?i:aws\.|amazon\.))(?!\.)(?!.*\.\.)[A-Za-z0-9_.-]{1,256}(?<!\.)")


def seconds(value: float) -> int:
    """SQS counts whole seconds; rounded up, so that nothing comes back early."""
    return max(0, math.ceil(value))


def check(queue: str, message: Message, capabilities: BrokerCapabilities) -> int:
    """The message's size in bytes, or an error saying why SQS would refuse it."""
    size = message_size(message)
    if size > capabilities.max_body:
        raise MessageTooLarge(
            f"a message for {queue!r} has {size} bytes with its attributes; the limit is "
            f"{capabilities.max_body}: configure a blob backend for large arguments, or send less"
        )
    _check_text(message.body, "the body")
    if message.attributes:
        _check_attributes(message)
    if message.delay:
        _check_delay(queue, message.delay, capabilities.max_delay)
    if message.group_id is not None:
        _check_id("group", message.group_id)
    if message.dedup_id is not None:
        _check_id("dedup", message.dedup_id)
    return size


def _check_attributes(message: Message) -> None:
    if len(message.attributes) > MAX_ATTRIBUTES:
        raise Unsupported(f"SQS takes {MAX_ATTRIBUTES} message attributes, got {len(message.attributes)}")
    for name, value in message.attributes.items():
        if not _ATTRIBUTE_NAME.fullmatch(name):
            raise Unsupported(
                f"SQS takes no message attribute named {name!r}: use letters, digits, '_', '-' and '.'"
            )
        _check_text(value, f"the attribute {name!r}")


def _check_text(text: str, what: str) -> None:
    if not text:
        raise SerializationError(f"SQS refuses empty text: {what} is empty", "")
    if text.isascii() and text.isprintable():  # as JSON is; told many times faster
        return
    found = _BAD_CHARACTER.search(text)
    if found:
        raise SerializationError(
            f"{what} holds the character U+{ord(found[0]):04X} at position {found.start()}, which SQS "
            "refuses; escape it (JSON does: \\u0000) or send the bytes as base64",
            "",
        )


def _check_delay(queue: str, delay: float, longest: float) -> None:
    if delay > longest:
        raise Unsupported(
            f"SQS delays a message by at most {longest:g} s, got {delay:g}: longer delays hop or "
            "use EventBridge Scheduler"
        )
    if delay > 0 and is_fifo(queue):
        raise Unsupported(
            f"{queue!r} is a FIFO queue: SQS has no delay per message there; use a standard queue "
            "or the scheduler tier"
        )


def _check_id(what: str, value: str) -> None:
    if not _ID.fullmatch(value):
        raise Unsupported(
            f"SQS takes a {what} id of 1 to 128 ASCII letters, digits and punctuation, no spaces: {value!r}"
        )


def to_entry(queue: str, message: Message) -> dict[str, Any]:
    """Parameters of SendMessage without the queue; also an entry of SendMessageBatch less its Id.

    On a FIFO queue unrelated messages get groups of their own, so that they run in parallel.
    """
    entry: dict[str, Any] = {"MessageBody": message.body}
    if message.delay > 0:
        entry["DelaySeconds"] = seconds(message.delay)
    if message.attributes:
        entry["MessageAttributes"] = {
            name: {"DataType": "String", "StringValue": value} for name, value in message.attributes.items()
        }
    if is_fifo(queue):
        dedup = message.dedup_id or str(uuid.uuid4())
        entry["MessageDeduplicationId"] = dedup
        entry["MessageGroupId"] = message.group_id or dedup
    elif message.group_id:
        entry["MessageGroupId"] = message.group_id
    return entry


def pack(sizes: Sequence[int], most: int, limit: int) -> Iterator[range]:
    """Runs of positions, in order, of at most ``most`` messages and ``limit`` bytes each."""
    start = total = 0
    for position, size in enumerate(sizes):
        if position > start and (position - start == most or total + size > limit):
            yield range(start, position)
            start, total = position, 0
        total += size
    if start < len(sizes):
        yield range(start, len(sizes))


def to_delivery(queue: str, raw: Mapping[str, Any], received_at: float, invisible: float) -> Delivery:
    """What ReceiveMessage handed over, received at ``received_at`` for ``invisible`` seconds."""
    system = raw.get("Attributes", {})
    more = raw.get("MessageAttributes")
    sent = system.get("SentTimestamp")
    first = system.get("ApproximateFirstReceiveTimestamp")
    # By position: keywords cost a third more, and every message comes by here.
    return Delivery(
        queue,
        raw["MessageId"],
        raw["Body"],
        raw["ReceiptHandle"],
        int(system.get("ApproximateReceiveCount", 1)),
        received_at if sent is None else float(sent) / 1000,
        received_at if first is None else float(first) / 1000,
        received_at,
        received_at + invisible,
        system.get("MessageGroupId"),
        system.get("MessageDeduplicationId"),
        _texts(more) if more else {},
    )


def _texts(attributes: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Binary attributes of other senders have no place in a Delivery."""
    return {name: value["StringValue"] for name, value in attributes.items() if "StringValue" in value}


def buried(delivery: Delivery, reason: str, detail: str, at: str, dedup_id: str, limit: int) -> Message:
    """The copy for the dead-letter queue, at most ``limit`` bytes: the body always stays whole;
    the detail gives way first, then the other notes."""
    added = {REASON: reason, ORIGIN: delivery.queue, BURIED_AT: at}
    kept = {name: value for name, value in delivery.attributes.items() if name not in (*added, DETAIL)}
    if len(kept) > MAX_ATTRIBUTES - len(added) - 1:
        kept = {PACKED: json.dumps(kept, separators=(",", ":"))}
    fifo = is_fifo(delivery.queue)
    copy = Message(
        body=delivery.body,
        group_id=delivery.group_id,
        dedup_id=dedup_id if fifo else None,
    )
    room = limit - message_size(copy)
    attributes: dict[str, str] = {}
    for name, value in (*kept.items(), *added.items()):
        cost = _cost(name, value)
        if value and cost <= room:
            attributes[name] = _clean(value)
            room -= cost
    text = _fit(_clean(detail[:MAX_DETAIL]), room - _cost(DETAIL, ""))
    if text:
        attributes[DETAIL] = text
    return Message(body=copy.body, group_id=copy.group_id, dedup_id=copy.dedup_id, attributes=attributes)


def _cost(name: str, value: str) -> int:
    return message_size(Message("", attributes={name: value}))


def _clean(text: str) -> str:
    # "?" is one byte, never more than what it stands for.
    return _BAD_CHARACTER.sub("?", text)


def _fit(text: str, room: int) -> str:
    """The longest beginning of ``text`` with at most ``room`` UTF-8 bytes."""
    return text.encode()[: max(0, room)].decode(errors="ignore")
