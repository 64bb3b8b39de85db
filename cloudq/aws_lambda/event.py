"""Events as an SQS event source mapping makes them, for local runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from cloudq.aws_lambda.events import md5_of
from cloudq.brokers.base import Delivery

ACCOUNT: Final = "123456789012"
REGION: Final = "us-east-1"


def event_of(deliveries: Iterable[Delivery]) -> dict[str, Any]:
    """The event that a function is called with for these messages."""
    return {"Records": [record_of(each) for each in deliveries]}


def record_of(delivery: Delivery) -> dict[str, Any]:
    """One message of it."""
    system = {
        "ApproximateReceiveCount": str(delivery.receive_count),
        "SentTimestamp": str(int(1000 * delivery.sent_at)),
        "SenderId": ACCOUNT,
        "ApproximateFirstReceiveTimestamp": str(int(1000 * delivery.first_received_at)),
    }
    if delivery.group_id is not None:
        system["MessageGroupId"] = delivery.group_id
    if delivery.dedup_id is not None:
        system["MessageDeduplicationId"] = delivery.dedup_id
    return {
        "messageId": delivery.message_id,
        "receiptHandle": delivery.receipt,
        "body": delivery.body,
        "attributes": system,
        "messageAttributes": {
            name: {"stringValue": value, "stringListValues": [], "binaryListValues": [], "dataType": "String"}
            for name, value in delivery.attributes.items()
        },
        "md5OfBody": md5_of(delivery.body),
        "eventSource": "aws:sqs",
        "eventSourceARN": f"arn:aws:sqs:{REGION}:{ACCOUNT}:{delivery.queue}",
        "awsRegion": REGION,
    }
