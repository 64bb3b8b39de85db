"""SQS's names of a queue: its URL, its attributes, and what is said when it is not there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from cloudq.aws.errors import plain_code
from cloudq.aws.port import AwsError
from cloudq.brokers.base import QueueInfo, is_fifo
from cloudq.errors import CloudQError, MessageTooLarge, OperationalError, QueueNotFound

_MISSING: Final = frozenset({"NonExistentQueue", "QueueDoesNotExist"})


def is_missing(error: AwsError) -> bool:
    """Does the error say that the queue does not exist?"""
    return plain_code(error.code) in _MISSING


def explain(error: AwsError, queue: str, name: str, region: Callable[[], str]) -> CloudQError:
    """An SQS error in our words; the error itself when there is nothing to add.

    ``queue`` is the app's name for the queue, ``name`` SQS's (with the prefix).
    """
    code, text = plain_code(error.code), error.message
    if code in _MISSING:
        return QueueNotFound(
            f"there is no SQS queue {name!r} in {region()} (or the credentials may not see it): create it "
            f"with `cloudq queues create {queue}` or Terraform, or check ?region= and queue_name_prefix"
        )
    if code == "BatchRequestTooLong" or "must be shorter than" in text:
        return MessageTooLarge(
            f"the queue {name!r} takes smaller messages than 1 MiB ({text}): raise its MaximumMessageSize, "
            "or set ?max_body= to its limit"
        )
    if code == "PurgeQueueInProgress":
        return OperationalError(f"the queue {name!r} was purged less than 60 s ago: wait 60 s and try again")
    if code == "QueueDeletedRecently":
        return OperationalError(f"the queue {name!r} was deleted just now: wait 60 s before making it anew")
    return error


def name_from_arn(arn: str) -> str:
    """``arn:aws:sqs:eu-west-1:123456789012:orders-dlq`` -> ``orders-dlq``."""
    return arn.rpartition(":")[2]


def redrive_policy(attributes: Mapping[str, Any]) -> tuple[str | None, int | None]:
    """The dead-letter queue's physical name and the receive limit, or (None, None)."""
    text = attributes.get("RedrivePolicy")
    if not text:
        return None, None
    policy = json.loads(text)
    return name_from_arn(policy["deadLetterTargetArn"]), int(policy["maxReceiveCount"])


def to_info(queue: str, attributes: Mapping[str, Any], dead_letter_queue: str | None) -> QueueInfo:
    """A queue's description from its attributes."""
    return QueueInfo(
        name=queue,
        fifo=is_fifo(queue),
        visibility_timeout=float(attributes.get("VisibilityTimeout", 30)),
        dead_letter_queue=dead_letter_queue,
        max_receive_count=redrive_policy(attributes)[1],
    )
