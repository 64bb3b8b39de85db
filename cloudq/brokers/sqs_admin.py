"""Creating and listing SQS queues: for the CLI, local development and tests, never the runtime."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from cloudq.aws.port import AwsError, Call, Operation
from cloudq.brokers.base import QueueSpec, dead_letter_name, is_fifo
from cloudq.brokers.sqs_entry import seconds
from cloudq.brokers.sqs_queues import Queues
from cloudq.errors import ImproperlyConfigured, QueueNotFound

#: Dead letters are kept as long as SQS can: 14 days.
DEAD_LETTER_RETENTION: Final = 1_209_600
#: RedriveAllowPolicy takes ten source queues.
MAX_SOURCES: Final = 10
PAGE: Final = 1_000


def create(queues: Queues, spec: QueueSpec, poll_wait: int) -> Operation[list[str]]:
    """The dead-letter queue first, then the queue that names it. What exists is left as it is."""
    dead = dead_letter_name(spec.name) if spec.dead_letter_queue is None else spec.dead_letter_queue
    if is_fifo(dead) != is_fifo(spec.name):
        raise ImproperlyConfigured(
            f"{spec.name!r} and its dead-letter queue {dead!r}: both are FIFO (named *.fifo), or neither"
        )
    common = _common(spec.name, poll_wait)
    made: list[str] = []
    if (yield from _ensure(queues, dead, {**common, "MessageRetentionPeriod": str(DEAD_LETTER_RETENTION)})):
        made.append(dead)
    dead_arn = yield from queues.arn(dead)
    redrive = {"deadLetterTargetArn": dead_arn, "maxReceiveCount": spec.max_receive_count}
    attributes = {
        **common,
        "VisibilityTimeout": str(seconds(spec.visibility_timeout)),
        "MessageRetentionPeriod": str(seconds(spec.retention)),
        "RedrivePolicy": json.dumps(redrive),
    }
    if (yield from _ensure(queues, spec.name, attributes)):
        made.append(spec.name)
        yield from _allow(queues, dead, spec.name, fresh=dead in made)
    return made


def _common(queue: str, poll_wait: int) -> dict[str, str]:
    attributes = {"SqsManagedSseEnabled": "true", "ReceiveMessageWaitTimeSeconds": str(poll_wait)}
    if is_fifo(queue):
        attributes |= {
            "FifoQueue": "true",
            "ContentBasedDeduplication": "true",  # EventBridge gives no deduplication id
            "DeduplicationScope": "messageGroup",
            "FifoThroughputLimit": "perMessageGroupId",
        }
    return attributes


def _ensure(queues: Queues, queue: str, attributes: Mapping[str, str]) -> Operation[bool]:
    """Create the queue unless it is there; True when it was created."""
    queues.forget(queue)
    try:
        yield from queues.url(queue)
        return False
    except QueueNotFound:
        pass
    try:
        yield Call(
            "sqs", "CreateQueue", {"QueueName": queues.physical(queue), "Attributes": dict(attributes)}
        )
    except AwsError as error:
        raise queues.explain(queue, error) from error
    return True


def _allow(queues: Queues, dead: str, source: str, fresh: bool) -> Operation[None]:
    """Let ``source`` move messages to ``dead``; other sources keep their right."""
    arn = yield from queues.arn(source)
    if fresh:
        sources = [arn]
    else:
        found = yield from queues.attributes(dead, ["RedriveAllowPolicy"])
        policy: dict[str, Any] = json.loads(found.get("RedriveAllowPolicy") or "{}")
        if policy.get("redrivePermission") != "byQueue" or arn in policy.get("sourceQueueArns", []):
            return
        sources = [*policy.get("sourceQueueArns", []), arn]
    if len(sources) > MAX_SOURCES:
        allow: dict[str, Any] = {"redrivePermission": "allowAll"}
    else:
        allow = {"redrivePermission": "byQueue", "sourceQueueArns": sources}
    yield from queues.call(
        dead, "SetQueueAttributes", {"Attributes": {"RedriveAllowPolicy": json.dumps(allow)}}
    )


def delete(queues: Queues, queue: str) -> Operation[None]:
    """Delete one queue and what is in it."""
    yield from queues.call(queue, "DeleteQueue", {})
    queues.forget(queue)


def listing(queues: Queues, prefix: str) -> Operation[list[str]]:
    """Names of the queues whose physical name begins with ours and ``prefix``."""
    params: dict[str, Any] = {"MaxResults": PAGE}
    if physical := queues.physical(prefix):
        params["QueueNamePrefix"] = physical
    names: list[str] = []
    while True:
        answer = yield Call("sqs", "ListQueues", params)
        names += [queues.logical(url.rpartition("/")[2]) for url in answer.get("QueueUrls", [])]
        if not answer.get("NextToken"):
            return sorted(names)
        params = {**params, "NextToken": answer["NextToken"]}
