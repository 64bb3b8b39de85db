"""What counted calls would cost at Amazon: list prices of us-east-1, seen in 2026, in dollars a million.

SQS: $0.40 a million requests (standard queues, 64 KB each); DynamoDB on demand: $0.625 a million write
units (1 KB), $0.125 a million read units (4 KB, strongly consistent). Free tiers are left out.
"""

from __future__ import annotations

from typing import Final

SQS_REQUEST: Final = 0.40
WRITE_UNIT: Final = 0.625
READ_UNIT: Final = 0.125
#: SQS operations that the contestants call; the others are DynamoDB's and are paid in units.
SQS: Final = frozenset(
    {
        "ChangeMessageVisibility",
        "ChangeMessageVisibilityBatch",
        "CreateQueue",
        "DeleteMessage",
        "DeleteMessageBatch",
        "GetQueueAttributes",
        "GetQueueUrl",
        "ListQueues",
        "ReceiveMessage",
        "SendMessage",
        "SendMessageBatch",
        "SetQueueAttributes",
    }
)


def sqs_calls(calls: dict[str, float]) -> float:
    """Requests to SQS among what was counted."""
    return sum(amount for name, amount in calls.items() if name in SQS)


def dollars_per_million(calls_per_task: dict[str, float]) -> float:
    """What a million tasks cost that make these calls (and units) each."""
    return (
        sqs_calls(calls_per_task) * SQS_REQUEST
        + calls_per_task.get("write_units", 0.0) * WRITE_UNIT
        + calls_per_task.get("read_units", 0.0) * READ_UNIT
    )


def idle_dollars_a_month(calls_per_minute: float) -> float:
    """What a worker with nothing to do costs in 30 days."""
    return calls_per_minute * 60 * 24 * 30 / 1e6 * SQS_REQUEST
