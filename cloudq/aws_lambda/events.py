"""What Lambda is called with, read: every shape in which SQS messages arrive, nothing ever raised.

* ``{"Records": [...]}`` of an event source mapping, records of several queues, any AWS partition;
* the bare list that EventBridge Pipes hands over;
* records as ReceiveMessage spells them (``MessageId``, ``Body``);
* bodies that SNS wrapped on their way to the queue.

Shapes: "Using Lambda with Amazon SQS" in the AWS Lambda Developer Guide, "Fanout to Amazon SQS
queues" in that of SNS.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import md5
from typing import Any, Final

from cloudq.brokers.base import Delivery, is_fifo

#: As SQS writes it; whatever else stands there (``{{{md5_of_body}}}`` in templates) says nothing.
_MD5: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record that is no message. ``item_id`` is None when it cannot even be reported by itself."""

    item_id: str | None
    why: str


@dataclass(slots=True)
class Parsed:
    """A batch: deliveries in their order, what could not be read, and what is behind such a record in its
    FIFO group, which must not overtake it."""

    deliveries: list[Delivery] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    behind: list[Delivery] = field(default_factory=list)


def parse(event: Any, queue_of: Callable[[str], str], now: float, ends: float) -> Parsed:
    """Read an event that came at ``now`` for an invocation that ends at ``ends`` (epoch seconds).

    ``queue_of`` turns a queue's ARN into the app's name for it.
    """
    parsed = Parsed()
    records = event.get("Records") if isinstance(event, Mapping) else event
    if not isinstance(records, list):
        what = f"an object with {_some(event)}" if isinstance(event, Mapping) else f"a {type(event).__name__}"
        why = f"this is no batch of SQS messages but {what}: map an SQS queue to this function"
        parsed.unreadable.append(Unreadable(None, why))
        return parsed
    blocked: set[tuple[str, str]] = set()
    # what EventBridge Pipes hands over may have been transformed on its way
    checked = isinstance(event, Mapping)
    for record in records:
        found = _read(record, queue_of, now, ends, checked)
        line = _line(record)
        if isinstance(found, Unreadable):
            parsed.unreadable.append(found)
            if line is not None:
                blocked.add(line)
        else:
            (parsed.behind if line in blocked else parsed.deliveries).append(found)
    return parsed


def _line(record: Any) -> tuple[str, str] | None:
    """The FIFO queue and group in which the record has its place, if it has one."""
    if not isinstance(record, Mapping):
        return None
    arn = _text(record, "eventSourceARN", "eventSourceArn", "EventSourceARN")
    group = _text(_mapping(record, "attributes", "Attributes"), "MessageGroupId")
    return (arn, group) if arn is not None and group is not None and is_fifo(arn) else None


def _some(event: Mapping[Any, Any]) -> str:
    return ", ".join(repr(name)[:40] for name in list(event)[:5]) or "nothing in it"


def _read(
    record: Any, queue_of: Callable[[str], str], now: float, ends: float, checked: bool
) -> Delivery | Unreadable:
    if not isinstance(record, Mapping):
        return Unreadable(None, f"a record is a {type(record).__name__}, not an object")
    message_id = _text(record, "messageId", "MessageId")
    if message_id is None:
        source = record.get("eventSource") or record.get("EventSource")
        return Unreadable(None, f"a record has no messageId (its source: {source!r:.60})")
    body = _text(record, "body", "Body")
    if body is None:
        return Unreadable(message_id, "its body is no text")
    if checked and not _is_whole(body, _text(record, "md5OfBody", "MD5OfBody")):
        why = "its md5OfBody is that of another text: it was damaged on its way (leave it out of events made by hand)"
        return Unreadable(message_id, why)
    arn = _text(record, "eventSourceARN", "eventSourceArn", "EventSourceARN")
    queue = queue_name(arn)
    if queue is None or arn is None:
        return Unreadable(message_id, f"its eventSourceARN is not that of an SQS queue: {arn!r:.200}")
    receipt = _text(record, "receiptHandle", "ReceiptHandle")
    if receipt is None:
        return Unreadable(message_id, "it has no receiptHandle")
    system = _mapping(record, "attributes", "Attributes")
    count = max(1, int(_number(system.get("ApproximateReceiveCount"), 1)))
    first = _number(system.get("ApproximateFirstReceiveTimestamp"), now * 1000) / 1000
    text, attributes = unwrapped(
        body, _attributes(_mapping(record, "messageAttributes", "MessageAttributes"))
    )
    return Delivery(
        queue=queue_of(arn),
        message_id=message_id,
        body=text,
        receipt=receipt,
        receive_count=count,
        sent_at=_number(system.get("SentTimestamp"), now * 1000) / 1000,
        first_received_at=first,
        # the batching window may have held it: only the first receipt's time is told
        received_at=min(first, now) if count == 1 else now,
        invisible_until=ends,
        group_id=_text(system, "MessageGroupId"),
        dedup_id=_text(system, "MessageDeduplicationId"),
        attributes=attributes,
    )


def md5_of(body: str) -> str:
    """What SQS says a body's MD5 is ("MD5OfMessageBody", Amazon SQS API Reference)."""
    return md5(body.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()


def _is_whole(body: str, given: str | None) -> bool:
    """Is the body the one that SQS had? Yes where nothing says otherwise."""
    return given is None or not _MD5.fullmatch(given) or md5_of(body) == given


def queue_name(arn: str | None) -> str | None:
    """``arn:aws-us-gov:sqs:us-gov-west-1:123456789012:orders-2.fifo`` -> ``orders-2.fifo``, else None.

    Format: "ARN format" in the IAM User Guide; the partition may be any.
    """
    parts = (arn or "").split(":")
    if len(parts) != 6 or parts[0] != "arn" or not parts[1] or parts[2] != "sqs" or not parts[5]:
        return None
    return parts[5]


def unwrapped(body: str, attributes: Mapping[str, str]) -> tuple[str, Mapping[str, str]]:
    """What was published to SNS, if the body is its envelope ("Amazon SNS message and JSON formats");
    message attributes of SNS take the place of the queue's, which has none then."""
    if '"Notification"' not in body or '"TopicArn"' not in body:
        return body, attributes
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return body, attributes
    if not isinstance(found, dict) or found.get("Type") != "Notification" or "task" in found:
        return body, attributes
    message = found.get("Message")
    if not isinstance(message, str) or not isinstance(found.get("TopicArn"), str):
        return body, attributes
    given = found.get("MessageAttributes")
    own = {
        name: value["Value"]
        for name, value in (given.items() if isinstance(given, dict) else ())
        if isinstance(value, dict) and isinstance(value.get("Value"), str) and value.get("Type") != "Binary"
    }
    return message, {**attributes, **own}


def _attributes(found: Mapping[str, Any]) -> dict[str, str]:
    """Text attributes; binary ones (base64) have no place in a Delivery."""
    texts: dict[str, str] = {}
    for name, value in found.items():
        text = _text(value, "stringValue", "StringValue") if isinstance(value, Mapping) else None
        if text is not None:
            texts[name] = text
    return texts


def _text(source: Mapping[Any, Any], *names: str) -> str | None:
    for name in names:
        value = source.get(name)
        if isinstance(value, str) and value:
            return value
    return None


def _mapping(source: Mapping[Any, Any], *names: str) -> Mapping[str, Any]:
    for name in names:
        value = source.get(name)
        if isinstance(value, Mapping):
            return value
    return {}


def _number(value: Any, otherwise: float) -> float:
    """SQS writes numbers as text."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return otherwise
    return number if math.isfinite(number) and abs(number) < 1e15 else otherwise
