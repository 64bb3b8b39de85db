"""An event source mapping for tests: messages of a broker handed to a handler as Lambda would."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from cloudq.app import CloudQ
from cloudq.aws_lambda.events import md5_of
from cloudq.brokers.base import Delivery


class Context:
    """What Lambda gives a handler besides the event."""

    aws_request_id = "request-1"
    function_name = "f"

    def __init__(self, seconds: float = 900.0) -> None:
        self._seconds = seconds

    def get_remaining_time_in_millis(self) -> int:
        return int(1000 * self._seconds)


def record(delivery: Delivery, partition: str = "aws") -> dict[str, Any]:
    """One message as it stands in the event."""
    system = {
        "ApproximateReceiveCount": str(delivery.receive_count),
        "SentTimestamp": str(int(1000 * delivery.sent_at)),
        "SenderId": "AIDA",
        "ApproximateFirstReceiveTimestamp": str(int(1000 * delivery.first_received_at)),
    }
    if delivery.group_id is not None:
        system |= {"MessageGroupId": delivery.group_id, "SequenceNumber": "1"}
    return {
        "messageId": delivery.message_id,
        "receiptHandle": delivery.receipt,
        "body": delivery.body,
        "attributes": system,
        "messageAttributes": {
            name: {"stringValue": value, "dataType": "String"} for name, value in delivery.attributes.items()
        },
        "md5OfBody": md5_of(delivery.body),
        "eventSource": "aws:sqs",
        "eventSourceARN": f"arn:{partition}:sqs:us-east-1:123456789012:{delivery.queue}",
        "awsRegion": "us-east-1",
    }


class Mapping:
    """Receives from the app's broker, calls the handler, deletes what is not reported."""

    def __init__(self, app: CloudQ, handler: Callable[[Any, Any], Any], *queues: str) -> None:
        self.app = app
        self.handler = handler
        self.queues = queues or (app.conf.task_default_queue,)
        self.answers: list[Any] = []
        self.held: list[Delivery] = []

    def once(self, seconds: float = 900.0, limit: int = 10) -> list[str]:
        """One invocation with what is there; returns the ids that were reported."""
        found = [each for queue in self.queues for each in self.app.broker.receive(queue, limit, 0.0, 60.0)]
        if not found:
            return []
        self.held = found
        event = json.loads(json.dumps({"Records": [record(each) for each in found]}))
        answer = self.handler(event, Context(seconds))
        self.answers.append(answer)
        failed = [each["itemIdentifier"] for each in answer["batchItemFailures"]]
        assert set(answer) == {"batchItemFailures"}
        if "" not in failed:
            self.app.broker.ack([each for each in found if each.message_id not in failed])
        return failed
