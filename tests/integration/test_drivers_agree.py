"""The lean driver and boto3 make the same calls and are told the same, on moto and on ministack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from cloudq.aws.boto import BotoPort
from cloudq.aws.lean import LeanPort
from cloudq.aws.port import AwsError, Call, Port
from cloudq.errors import OperationalError

#: What differs from call to call.
_OWN = (
    "MessageId",
    "ReceiptHandle",
    "SentTimestamp",
    "ApproximateFirstReceiveTimestamp",
    "SenderId",
    "QueueUrl",
)


def plain(value: Any) -> Any:
    """An answer without what is different each time."""
    if isinstance(value, Mapping):
        return {
            name: "..." if name in _OWN else plain(each)
            for name, each in value.items()
            if name not in ("ResponseMetadata", "ConsumedCapacity")
        }
    return [plain(each) for each in value] if isinstance(value, list) else value


def ask(port: Port, service: str, operation: str, **params: Any) -> Any:
    """The answer, or the error as a plain value."""
    try:
        return port.call(Call(service, operation, params))
    except AwsError as error:
        return ("error", error.code, error.status, plain(error.answer.get("Item")))
    except OperationalError as error:
        return ("error", type(error).__name__)


def on_sqs(port: Port, name: str) -> list[Any]:
    told: list[Any] = [ask(port, "sqs", "GetQueueUrl", QueueName=f"{name}-missing")]
    url = ask(port, "sqs", "CreateQueue", QueueName=name)["QueueUrl"]
    told.append(ask(port, "sqs", "GetQueueUrl", QueueName=name))
    attribute = {
        "a": {"DataType": "Binary", "BinaryValue": b"\x00\xff"},
        "s": {"DataType": "String", "StringValue": "ü"},
    }
    told.append(ask(port, "sqs", "SendMessage", QueueUrl=url, MessageBody="one", MessageAttributes=attribute))
    entries = [{"Id": str(n), "MessageBody": f"ü€ {n}"} for n in range(3)]
    told.append(ask(port, "sqs", "SendMessageBatch", QueueUrl=url, Entries=entries))
    found: list[Any] = []
    for _ in range(10):
        answer = ask(
            port, "sqs", "ReceiveMessage", QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1,
            MessageAttributeNames=["All"], MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp"],
        )  # fmt: skip
        found += answer.get("Messages") or []
        if len(found) == 4:
            break
    told.append(sorted((plain(each) for each in found), key=lambda each: str(each["Body"])))
    handles = [{"Id": str(n), "ReceiptHandle": each["ReceiptHandle"]} for n, each in enumerate(found)]
    longer = [{**each, "VisibilityTimeout": 60} for each in handles]
    told.append(ask(port, "sqs", "ChangeMessageVisibilityBatch", QueueUrl=url, Entries=longer))
    told.append(ask(port, "sqs", "DeleteMessageBatch", QueueUrl=url, Entries=handles))
    told.append(ask(port, "sqs", "ReceiveMessage", QueueUrl=url))
    told.append(ask(port, "sqs", "GetQueueAttributes", QueueUrl=url, AttributeNames=["VisibilityTimeout"]))
    told.append(ask(port, "sqs", "SendMessage", QueueUrl=url + "-gone", MessageBody="x"))
    ask(port, "sqs", "DeleteQueue", QueueUrl=url)
    return told


def on_dynamodb(port: Port, table: str) -> list[Any]:
    key = {"pk": {"S": "k"}, "sk": {"S": "-"}}
    told: list[Any] = [ask(port, "dynamodb", "GetItem", TableName=table, Key=key)]
    kinds = [("pk", "HASH"), ("sk", "RANGE")]
    ask(
        port, "dynamodb", "CreateTable", TableName=table, BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name, _ in kinds],
        KeySchema=[{"AttributeName": name, "KeyType": kind} for name, kind in kinds],
    )  # fmt: skip
    item = {
        **key,
        "value": {"B": b"\x00\xff"},
        "n": {"N": "7"},
        "deep": {"M": {"l": {"L": [{"B": b"in"}, {"NULL": True}]}}},
    }
    absent = {
        "ConditionExpression": "attribute_not_exists(pk)",
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }
    told += [
        ask(port, "dynamodb", "PutItem", TableName=table, Item=item, **absent),
        ask(port, "dynamodb", "PutItem", TableName=table, Item=item, **absent),
        ask(port, "dynamodb", "GetItem", TableName=table, Key=key, ConsistentRead=True),
        ask(port, "dynamodb", "GetItem", TableName=table, Key={**key, "sk": {"S": "other"}}),
        ask(
            port, "dynamodb", "UpdateItem", TableName=table, Key=key, ReturnValues="ALL_NEW",
            UpdateExpression="SET n = :n", ExpressionAttributeValues={":n": {"N": "8"}},
        ),
        ask(port, "dynamodb", "BatchGetItem", RequestItems={table: {"Keys": [key]}}),
        ask(
            port, "dynamodb", "Query", TableName=table, KeyConditionExpression="pk = :k",
            ExpressionAttributeValues={":k": {"S": "k"}},
        ),
        ask(port, "dynamodb", "DeleteItem", TableName=table, Key=key, ReturnValues="ALL_OLD"),
        ask(port, "dynamodb", "GetItem", TableName=table, Key={"pk": {"S": "k"}}),
    ]  # fmt: skip
    ask(port, "dynamodb", "DeleteTable", TableName=table)
    return told


@pytest.mark.parametrize("work", [on_sqs, on_dynamodb])
@pytest.mark.parametrize("server", ["moto_url", "ministack_url"])
def test_both_drivers_are_told_the_same(
    request: pytest.FixtureRequest, server: str, work: Any, unique: str
) -> None:
    url = request.getfixturevalue(server)
    boto, lean = BotoPort(endpoint_url=url), LeanPort(endpoint_url=url)
    theirs = work(boto, unique)
    ours = work(lean, unique)
    assert plain(ours) == plain(theirs)
    assert ("error", "AWS.SimpleQueueService.NonExistentQueue") in [
        each[:2] for each in ours if isinstance(each, tuple)
    ] or (work is on_dynamodb)
    boto.close()
    lean.close()
