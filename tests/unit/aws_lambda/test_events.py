"""Every shape in which a message reaches a function, and what is no message at all."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from esm import Context
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudq import CloudQ
from cloudq.aws_lambda import make_handler
from cloudq.aws_lambda.events import Parsed, md5_of, parse, queue_name

BODY = '{"task": "t", "args": [1]}'


def a_record(**changes: Any) -> dict[str, Any]:
    record: dict[str, Any] = {
        "messageId": "059f36b4-87a3-44ab-83d2-661975830a7d",
        "receiptHandle": "AQEBwJnKyrHigUMZj6rYigCgxlaS3SLy0a",
        "body": BODY,
        "attributes": {
            "ApproximateReceiveCount": "3",
            "SentTimestamp": "1545082649183",
            "SenderId": "AIDAIENQZJOLO23YVJ4VO",
            "ApproximateFirstReceiveTimestamp": "1545082649185",
        },
        "messageAttributes": {
            "tenant": {
                "stringValue": "a",
                "stringListValues": [],
                "binaryListValues": [],
                "dataType": "String",
            },
            "raw": {"binaryValue": "aGVsbG8=", "dataType": "Binary"},
        },
        "md5OfBody": md5_of(changes["body"] if isinstance(changes.get("body"), str) else BODY),
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:us-east-2:123456789012:my-queue-2",
        "awsRegion": "us-east-2",
    }
    record.update(changes)
    return {name: value for name, value in record.items() if value is not None}


def read(event: Any) -> Parsed:
    return parse(event, lambda arn: queue_name(arn) or arn, 2_000_000_000.0, 2_000_000_060.0)


def test_a_record_of_an_event_source_mapping() -> None:
    [found] = read({"Records": [a_record()]}).deliveries

    assert (found.queue, found.message_id, found.body) == (
        "my-queue-2",
        "059f36b4-87a3-44ab-83d2-661975830a7d",
        BODY,
    )
    assert found.receive_count == 3
    assert found.sent_at == 1545082649.183
    assert found.first_received_at == 1545082649.185
    assert found.received_at == 2_000_000_000.0
    assert found.invisible_until == 2_000_000_060.0
    assert found.attributes == {"tenant": "a"}
    assert found.group_id is None


def test_a_record_of_a_fifo_queue_has_its_group() -> None:
    system = {**a_record()["attributes"], "MessageGroupId": "g", "MessageDeduplicationId": "d"}
    arn = "arn:aws:sqs:us-east-2:123456789012:orders.fifo"
    [found] = read({"Records": [a_record(attributes=system, eventSourceARN=arn)]}).deliveries

    assert (found.queue, found.group_id, found.dedup_id) == ("orders.fifo", "g", "d")


def test_the_bare_list_of_eventbridge_pipes() -> None:
    assert len(read([a_record(), a_record(messageId="2")]).deliveries) == 2


def test_records_as_receive_message_spells_them() -> None:
    record = {
        "MessageId": "m",
        "ReceiptHandle": "r",
        "Body": BODY,
        "Attributes": {"ApproximateReceiveCount": "2"},
        "MessageAttributes": {"tenant": {"StringValue": "a", "DataType": "String"}},
        "eventSourceARN": "arn:aws:sqs:us-east-2:123456789012:q",
    }
    [found] = read([record]).deliveries

    assert (found.message_id, found.receipt, found.receive_count, found.attributes) == (
        "m",
        "r",
        2,
        {"tenant": "a"},
    )


@pytest.mark.parametrize("partition", ["aws", "aws-cn", "aws-us-gov", "aws-iso", "aws-eusc"])
def test_queues_of_every_partition(partition: str) -> None:
    assert queue_name(f"arn:{partition}:sqs:x-1:123456789012:Q_2-b.fifo") == "Q_2-b.fifo"


@pytest.mark.parametrize(
    "arn",
    [
        None,
        "",
        "orders",
        "arn:aws:sns:us-east-1:1:topic",
        "arn:aws:sqs:us-east-1:1:",
        "arn::sqs:r:1:q",
        "a:b:c:d:e:f",
    ],
)
def test_what_is_no_queue(arn: str | None) -> None:
    assert queue_name(arn) is None


def test_what_sns_wrapped_is_unwrapped_with_its_attributes() -> None:
    wrapped = {
        "Type": "Notification",
        "MessageId": "22b80b92",
        "TopicArn": "arn:aws:sns:us-west-2:123456789012:MyTopic",
        "Message": BODY,
        "Timestamp": "2012-05-02T00:54:06.655Z",
        "MessageAttributes": {
            "tenant": {"Type": "String", "Value": "b"},
            "raw": {"Type": "Binary", "Value": "aGVsbG8="},
        },
    }
    [found] = read({"Records": [a_record(body=json.dumps(wrapped))]}).deliveries

    assert found.body == BODY
    assert found.attributes == {"tenant": "b"}


def test_what_sns_passed_on_raw_keeps_its_attributes() -> None:
    # raw delivery: the body is the message as it was published, SNS's attributes are the queue's
    given = {"tenant": {"stringValue": "b", "dataType": "String"}}
    [found] = read({"Records": [a_record(messageAttributes=given)]}).deliveries

    assert (found.body, found.attributes) == (BODY, {"tenant": "b"})


def test_a_task_message_that_only_looks_like_sns_stays_as_it_is() -> None:
    body = json.dumps({"task": "t", "kwargs": {"Type": "Notification", "TopicArn": "x", "Message": "y"}})
    [found] = read({"Records": [a_record(body=body)]}).deliveries
    assert found.body == body


def test_records_of_several_queues_keep_their_own() -> None:
    other = "arn:aws:sqs:us-east-2:123456789012:other"
    found = read({"Records": [a_record(), a_record(messageId="2", eventSourceARN=other)]}).deliveries
    assert [each.queue for each in found] == ["my-queue-2", "other"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"body": None}, "body"),
        ({"body": 7}, "body"),
        ({"eventSourceARN": "arn:aws:kinesis:x:1:stream/y"}, "eventSourceARN"),
        ({"eventSourceARN": None}, "eventSourceARN"),
        ({"receiptHandle": None}, "receiptHandle"),
    ],
)
def test_a_record_that_is_no_message_is_reported_by_its_id(change: dict[str, Any], why: str) -> None:
    found = read({"Records": [a_record(**change)]})

    [bad] = found.unreadable
    assert bad.item_id == a_record()["messageId"]
    assert why in bad.why


def test_the_digest_is_the_one_that_sqs_gives() -> None:
    # of the example event in "Using Lambda with Amazon SQS", Lambda Developer Guide
    assert md5_of("Test message.") == "e4e68fb7bd0e697a0ae8f1bb342846b3"
    assert md5_of("schön") == "088c4e6cb8f58a83cb0e76d27dd896ce"


def test_a_body_that_was_damaged_on_its_way_comes_again() -> None:
    found = read({"Records": [a_record(md5OfBody=md5_of("another text")), a_record(messageId="2")]})

    [bad] = found.unreadable
    assert bad.item_id == a_record()["messageId"]
    assert "damaged on its way" in bad.why
    assert [each.message_id for each in found.deliveries] == ["2"]


@pytest.mark.parametrize("digest", [None, "", "{{{md5_of_body}}}", 5])
def test_where_no_digest_is_given_none_is_checked(digest: Any) -> None:
    assert len(read({"Records": [a_record(md5OfBody=digest)]}).deliveries) == 1


def test_what_pipes_may_have_transformed_is_not_checked() -> None:
    assert len(read([a_record(md5OfBody=md5_of("as it was before"))]).deliveries) == 1


def test_nothing_overtakes_a_record_of_its_fifo_group_that_cannot_be_read() -> None:
    def ordered(message_id: str, group: str, **changes: Any) -> dict[str, Any]:
        system = {**a_record()["attributes"], "MessageGroupId": group}
        arn = "arn:aws:sqs:us-east-2:123456789012:orders.fifo"
        return a_record(messageId=message_id, attributes=system, eventSourceARN=arn, **changes)

    found = read(
        {
            "Records": [
                ordered("a1", "a"),
                ordered("a2", "a", body=""),
                ordered("b1", "b"),
                ordered("a3", "a"),
                a_record(messageId="s1"),
            ]
        }
    )
    assert [each.message_id for each in found.deliveries] == ["a1", "b1", "s1"]
    assert [each.item_id for each in found.unreadable] == ["a2"]
    assert [each.message_id for each in found.behind] == ["a3"]


@pytest.mark.parametrize(
    "event",
    [None, 5, "x", {}, {"Records": "x"}, {"detail-type": "Scheduled Event"}, [5], [{}], [[a_record()]]],
)
def test_what_cannot_be_reported_by_id_fails_the_batch(event: Any) -> None:
    found = read(event)
    assert not found.deliveries
    assert [each.item_id for each in found.unreadable] == [None]


@pytest.mark.parametrize(
    "number", ["x", "", None, "nan", "inf", "1e400", [], {}, -5, "99999999999999999999999999"]
)
def test_numbers_that_are_none_are_guessed(number: Any) -> None:
    system = dict.fromkeys(a_record()["attributes"], number)
    [found] = read({"Records": [a_record(attributes=system)]}).deliveries

    assert found.receive_count >= 1
    assert abs(found.sent_at) < 1e13


# --- whatever comes, the answer is one that Lambda understands --------------------------------------------

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)
NAMES = [*a_record(), "MessageId", "Body"]
odd_records = st.dictionaries(st.sampled_from(NAMES), values, max_size=8).map(
    lambda odd: {**a_record(), **odd}
)
bodies = st.text(max_size=60) | st.sampled_from(
    [BODY, "{}", "[]", '{"v": 99}', '{"task": 5}', "\ud800", '{"signed": 1}']
)
records = odd_records | values | bodies.map(lambda body: a_record(body=body))
events = (
    values | st.lists(records, max_size=5) | st.lists(records, max_size=5).map(lambda each: {"Records": each})
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(event=events)
def test_nothing_is_raised_and_nothing_unread_is_deleted(event: Any) -> None:
    app = CloudQ("fuzz", broker="memory://", backend="memory://")
    handler = make_handler(app, concurrency=1)
    try:
        answer = handler(event, Context(60.0))
    finally:
        handler.close()
    failed = [each["itemIdentifier"] for each in answer["batchItemFailures"]]
    parsed = parse(event, lambda arn: queue_name(arn) or arn, time.time(), time.time() + 60)
    unread = {each.item_id or "" for each in parsed.unreadable}
    # what was read has no such task: it is given back, because these receipts are nobody's and cannot be buried
    assert unread <= set(failed) or "" in failed
    assert ("" in failed) == ("" in unread), "no other record takes the whole batch down"
    json.dumps(answer)
    app.close()
