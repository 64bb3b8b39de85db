"""Receiving, settling and burying on SQS, against a scripted port."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aws_fakes import URL, FrozenClock, ScriptedPort, aws_error, refuses, takes_all

from cloudq.brokers.base import Delivery, Message, QueueSpec, message_size
from cloudq.brokers.sqs import ENTRY_ATTEMPTS, SqsBroker
from cloudq.errors import LeaseLost, NoDeadLetterQueue, OperationalError, ServiceUnavailable

MIB = 1_048_576
NOW = 1_800_000_000.0
BROKEN = ("InternalError", "try again", False)
DLQ = {"deadLetterTargetArn": "arn:aws:sqs:us-east-1:123456789012:q-dlq", "maxReceiveCount": 3}
WITH_DLQ = {"Attributes": {"VisibilityTimeout": "60", "RedrivePolicy": json.dumps(DLQ)}}


def broker(port: ScriptedPort, clock: FrozenClock | None = None, **options: Any) -> SqsBroker:
    return SqsBroker(port, clock=clock or FrozenClock(NOW), **options)


def delivery(n: int = 0, queue: str = "q", received_at: float = NOW, **changes: Any) -> Delivery:
    values: dict[str, Any] = {
        "queue": queue,
        "message_id": f"m{n}",
        "body": "{}",
        "receipt": f"r{n}",
        "receive_count": 1,
        "sent_at": received_at,
        "first_received_at": received_at,
        "received_at": received_at,
        "invisible_until": received_at + 30,
        **changes,
    }
    return Delivery(**values)


def raw(**changes: Any) -> dict[str, Any]:
    return {
        "MessageId": "m",
        "Body": "b",
        "ReceiptHandle": "r",
        "Attributes": {
            "ApproximateReceiveCount": "3",
            "SentTimestamp": "1799999990500",
            "ApproximateFirstReceiveTimestamp": "1799999995250",
        },
        **changes,
    }


# --- receive -----------------------------------------------------------------------------------


def test_a_received_message_carries_its_times_count_and_attributes() -> None:
    message = raw(
        MessageAttributes={
            "a": {"DataType": "String", "StringValue": "b"},
            "bin": {"DataType": "Binary", "BinaryValue": b"x"},
        }
    )
    port = ScriptedPort(ReceiveMessage={"Messages": [message]})
    (got,) = broker(port).receive("q", 10, 20, 30)
    assert (got.message_id, got.body, got.receipt, got.receive_count) == ("m", "b", "r", 3)
    assert (got.sent_at, got.first_received_at) == (1_799_999_990.5, 1_799_999_995.25)
    assert (got.received_at, got.invisible_until) == (NOW, NOW + 30)
    assert got.attributes == {"a": "b"}


def test_an_empty_answer_is_an_empty_list() -> None:
    assert broker(ScriptedPort(ReceiveMessage={})).receive("q", 10, 20, 30) == []


@pytest.mark.parametrize(("wait", "poll"), [(0, 0), (0.9, 0), (1.9, 1), (20, 20), (60, 20)])
def test_a_poll_never_waits_longer_than_asked(wait: float, poll: int) -> None:
    port = ScriptedPort(ReceiveMessage={})
    broker(port).receive("q", 99, wait, 30.2)
    params = port.made("ReceiveMessage")[0]
    assert (params["WaitTimeSeconds"], params["MaxNumberOfMessages"], params["VisibilityTimeout"]) == (
        poll,
        10,
        31,
    )
    assert port.calls[-1].timeout == poll


def test_invisibility_is_asked_for_up_to_twelve_hours() -> None:
    port = ScriptedPort(ReceiveMessage={})
    broker(port).receive("q", 1, 0, 99_999)
    assert port.made("ReceiveMessage")[0]["VisibilityTimeout"] == 43_200


def test_a_fifo_poll_can_be_repeated_after_a_lost_answer() -> None:
    port = ScriptedPort(ReceiveMessage={})
    shop = broker(port)
    shop.receive("q.fifo", 1, 0, 30)
    shop.receive("q.fifo", 1, 0, 30)
    shop.receive("q", 1, 0, 30)
    first, second, standard = port.made("ReceiveMessage")
    assert first["ReceiveRequestAttemptId"] != second["ReceiveRequestAttemptId"]
    assert "ReceiveRequestAttemptId" not in standard


def test_a_closed_broker_begins_no_poll() -> None:
    port = ScriptedPort()
    shop = broker(port)
    shop.close()
    shop.close()
    assert shop.receive("q", 10, 20, 30) == []
    assert port.calls == []
    assert port.closed


# --- ack, release, extend ----------------------------------------------------------------------


def test_deletes_go_in_tens_queue_by_queue() -> None:
    port = ScriptedPort(DeleteMessageBatch=takes_all)
    mixed = [delivery(n, queue="a" if n % 2 else "b") for n in range(24)]
    assert broker(port).ack(mixed) == []
    calls = port.made("DeleteMessageBatch")
    assert [(call["QueueUrl"], len(call["Entries"])) for call in calls] == [
        (URL + "b", 10),
        (URL + "b", 2),
        (URL + "a", 10),
        (URL + "a", 2),
    ]
    receipts = {entry["ReceiptHandle"] for call in calls for entry in call["Entries"]}
    assert receipts == {f"r{n}" for n in range(24)}


def test_nothing_to_settle_makes_no_call() -> None:
    port = ScriptedPort()
    shop = broker(port)
    assert (shop.ack([]), shop.release([]), shop.extend([], 30)) == ([], [], [])
    assert port.calls == []


@pytest.mark.parametrize(
    ("code", "text", "lost"),
    [
        ("ReceiptHandleIsInvalid", "The input receipt handle is invalid.", True),
        ("AWS.SimpleQueueService.MessageNotInflight", "", True),
        (
            "InvalidParameterValue",
            "Value r for parameter ReceiptHandle is invalid. Reason: Message does not exist or is not "
            "available for visibility timeout change.",
            True,
        ),
        ("InvalidParameterValue", "Reason: The receipt handle has expired.", True),
        (
            "InvalidParameterValue",
            "Total VisibilityTimeout for the message is beyond the limit [43200 seconds]",
            False,
        ),
        ("KmsDisabled", "the key is disabled", False),
    ],
)
def test_a_refused_renewal_says_whether_the_lease_is_lost(code: str, text: str, lost: bool) -> None:
    port = ScriptedPort(ChangeMessageVisibilityBatch=refuses({"1": (code, text, True)}))
    one, two = delivery(1), delivery(2)
    (refused,) = broker(port).extend([one, two], 60)
    assert refused.delivery is two
    assert refused.lost is lost
    assert refused.code == code.rpartition(".")[2]
    assert len(port.made("ChangeMessageVisibilityBatch")) == 1


def test_an_entry_that_sqs_fumbled_is_tried_again_alone() -> None:
    port = ScriptedPort(DeleteMessageBatch=[refuses({"1": BROKEN}), takes_all])
    assert broker(port).ack([delivery(0), delivery(1)]) == []
    assert [len(call["Entries"]) for call in port.made("DeleteMessageBatch")] == [2, 1]
    assert port.made("DeleteMessageBatch")[1]["Entries"][0]["ReceiptHandle"] == "r1"


def test_an_entry_that_sqs_goes_on_fumbling_comes_back_as_not_lost() -> None:
    port = ScriptedPort(DeleteMessageBatch=refuses({"0": BROKEN}))
    (refused,) = broker(port).ack([delivery(0), delivery(1)])
    assert (refused.code, refused.lost) == ("InternalError", False)
    assert len(port.made("DeleteMessageBatch")) == ENTRY_ATTEMPTS


def test_an_error_of_the_whole_call_is_raised() -> None:
    with pytest.raises(ServiceUnavailable):
        broker(ScriptedPort(DeleteMessageBatch=ServiceUnavailable("down"))).ack([delivery()])


def test_a_renewal_never_asks_past_twelve_hours_from_the_receipt() -> None:
    port = ScriptedPort(ChangeMessageVisibilityBatch=takes_all)
    clock = FrozenClock(NOW)
    shop = broker(port, clock)
    clock.now = NOW + 43_200 - 100
    shop.extend([delivery(0), delivery(1, received_at=NOW + 1_000)], 300)
    entries = port.made("ChangeMessageVisibilityBatch")[0]["Entries"]
    assert [entry["VisibilityTimeout"] for entry in entries] == [99, 300]


def test_a_lease_at_its_twelve_hour_end_is_reported_lost_without_a_call() -> None:
    port = ScriptedPort()
    clock = FrozenClock(NOW + 43_199.5)
    (refused,) = broker(port, clock).extend([delivery()], 30)
    assert (refused.code, refused.lost) == ("VisibilityCeiling", True)
    assert port.calls == []


def test_giving_back_takes_whole_seconds_rounded_up_and_at_most_what_is_left() -> None:
    port = ScriptedPort(ChangeMessageVisibilityBatch=takes_all)
    clock = FrozenClock(NOW + 43_000)
    shop = broker(port, clock)
    shop.release([delivery()])
    shop.release([delivery()], 0.2)
    shop.release([delivery()], 5_000)
    calls = port.made("ChangeMessageVisibilityBatch")
    assert [call["Entries"][0]["VisibilityTimeout"] for call in calls] == [0, 1, 199]


# --- bury --------------------------------------------------------------------------------------


def test_burying_sends_the_copy_with_its_reason_and_then_deletes() -> None:
    port = ScriptedPort(
        GetQueueAttributes=WITH_DLQ, SendMessage={"MessageId": "d"}, DeleteMessageBatch=takes_all
    )
    broker(port).bury(delivery(body="B", attributes={"a": "b"}, group_id="g"), "undecodable", "why")
    sent = port.made("SendMessage")[0]
    assert (sent["QueueUrl"], sent["MessageBody"], sent["MessageGroupId"]) == (URL + "q-dlq", "B", "g")
    values = {name: value["StringValue"] for name, value in sent["MessageAttributes"].items()}
    assert values == {
        "a": "b",
        "cloudq-reason": "undecodable",
        "cloudq-detail": "why",
        "cloudq-queue": "q",
        "cloudq-buried-at": "2027-01-15T08:00:00.000+00:00",
    }
    order = [call.operation for call in port.calls]
    assert order.index("SendMessage") < order.index("DeleteMessageBatch")


def test_nothing_is_deleted_when_the_copy_could_not_be_sent() -> None:
    port = ScriptedPort(GetQueueAttributes=WITH_DLQ, SendMessage=ServiceUnavailable("down"))
    with pytest.raises(ServiceUnavailable):
        broker(port).bury(delivery(), "x")
    assert port.made("DeleteMessageBatch") == []


def test_a_queue_without_dead_letter_queue_says_so() -> None:
    port = ScriptedPort(GetQueueAttributes={"Attributes": {"VisibilityTimeout": "30"}})
    with pytest.raises(NoDeadLetterQueue, match="'q' has no dead-letter queue"):
        broker(port).bury(delivery(), "x")


def test_a_lease_lost_while_burying_is_reported() -> None:
    port = ScriptedPort(
        GetQueueAttributes=WITH_DLQ,
        SendMessage={"MessageId": "d"},
        DeleteMessageBatch=refuses({"0": ("ReceiptHandleIsInvalid", "expired", True)}),
    )
    with pytest.raises(LeaseLost, match="m0"):
        broker(port).bury(delivery(), "x")


@pytest.mark.parametrize("spare", [0, 5, 60, 130, 200, 5_000])
def test_a_buried_copy_keeps_its_body_and_stays_within_the_limit(spare: int) -> None:
    port = ScriptedPort(
        GetQueueAttributes=WITH_DLQ, SendMessage={"MessageId": "d"}, DeleteMessageBatch=takes_all
    )
    body = "x" * (MIB - spare)
    broker(port).bury(delivery(body=body), "undecodable", "é" * 10_000)
    sent = port.made("SendMessage")[0]
    values = {name: v["StringValue"] for name, v in sent.get("MessageAttributes", {}).items()}
    assert sent["MessageBody"] == body
    assert message_size(Message(body, attributes=values)) <= MIB
    assert ("cloudq-reason" in values) == (spare >= 60)
    assert all(values.values())


def test_more_attributes_than_sqs_takes_are_packed_into_one() -> None:
    port = ScriptedPort(
        GetQueueAttributes=WITH_DLQ, SendMessage={"MessageId": "d"}, DeleteMessageBatch=takes_all
    )
    many = {f"a{n}": str(n) for n in range(7)}
    broker(port).bury(delivery(attributes=many), "x", "detail")
    values = port.made("SendMessage")[0]["MessageAttributes"]
    assert len(values) == 5
    assert json.loads(values["cloudq-attributes"]["StringValue"]) == many


def test_a_detail_with_characters_that_sqs_refuses_is_cleaned() -> None:
    port = ScriptedPort(
        GetQueueAttributes=WITH_DLQ, SendMessage={"MessageId": "d"}, DeleteMessageBatch=takes_all
    )
    broker(port).bury(delivery(), "x", "a\x00b\ud800c")
    assert port.made("SendMessage")[0]["MessageAttributes"]["cloudq-detail"]["StringValue"] == "a?b?c"


def test_on_fifo_burying_twice_sends_one_copy_in_the_same_group() -> None:
    policy = {**DLQ, "deadLetterTargetArn": DLQ["deadLetterTargetArn"] + ".fifo"}
    port = ScriptedPort(
        GetQueueAttributes={"Attributes": {"RedrivePolicy": json.dumps(policy)}},
        SendMessage={"MessageId": "d"},
        DeleteMessageBatch=takes_all,
    )
    shop = broker(port)
    shop.bury(delivery(queue="q.fifo", group_id="g"), "x")
    shop.bury(delivery(queue="q.fifo", group_id="g"), "x")
    first, second = port.made("SendMessage")
    assert first["MessageGroupId"] == "g"
    assert first["MessageDeduplicationId"] == second["MessageDeduplicationId"]


# --- describe, depth, purge, admin -------------------------------------------------------------


def test_a_description_is_remembered_for_a_minute() -> None:
    port = ScriptedPort(GetQueueAttributes=WITH_DLQ)
    clock = FrozenClock(NOW)
    shop = broker(port, clock)
    info = shop.describe("q")
    assert (info.visibility_timeout, info.dead_letter_queue, info.max_receive_count) == (60, "q-dlq", 3)
    clock.now += 59
    shop.describe("q")
    assert len(port.made("GetQueueAttributes")) == 1
    clock.now += 2
    shop.describe("q")
    assert len(port.made("GetQueueAttributes")) == 2


def test_a_dead_letter_queue_outside_the_prefix_keeps_its_own_name() -> None:
    port = ScriptedPort(
        GetQueueAttributes=WITH_DLQ, SendMessage={"MessageId": "d"}, DeleteMessageBatch=takes_all
    )
    shop = broker(port, queue_name_prefix="prod-")
    shop.bury(delivery(), "x")
    assert port.made("SendMessage")[0]["QueueUrl"] == URL + "q-dlq"


def test_a_second_purge_within_a_minute_says_to_wait() -> None:
    port = ScriptedPort(PurgeQueue=aws_error("AWS.SimpleQueueService.PurgeQueueInProgress"))
    with pytest.raises(OperationalError, match="wait 60 s"):
        broker(port).purge("q")


def test_creating_a_queue_makes_its_dead_letter_queue_first_and_leaves_existing_ones_alone() -> None:
    missing = aws_error("AWS.SimpleQueueService.NonExistentQueue")
    url = {"QueueUrl": URL + "x"}
    port = ScriptedPort(
        GetQueueUrl=[missing, url, missing, url],
        CreateQueue=url,
        GetQueueAttributes=[{"Attributes": {"QueueArn": "dlq-arn"}}, {"Attributes": {"QueueArn": "q-arn"}}],
        SetQueueAttributes={},
    )
    shop = broker(port)
    assert shop.create_queue(QueueSpec("q.fifo", visibility_timeout=90)) == ["q-dlq.fifo", "q.fifo"]
    dead, main = port.made("CreateQueue")
    assert dead["QueueName"] == "q-dlq.fifo"
    assert dead["Attributes"]["MessageRetentionPeriod"] == "1209600"
    assert main["Attributes"]["VisibilityTimeout"] == "90"
    assert json.loads(main["Attributes"]["RedrivePolicy"]) == {
        "deadLetterTargetArn": "dlq-arn",
        "maxReceiveCount": 5,
    }
    for created in (dead, main):
        assert (
            created["Attributes"].items()
            >= {
                "SqsManagedSseEnabled": "true",
                "FifoQueue": "true",
                "ContentBasedDeduplication": "true",
                "DeduplicationScope": "messageGroup",
                "FifoThroughputLimit": "perMessageGroupId",
            }.items()
        )
    allow = json.loads(port.made("SetQueueAttributes")[0]["Attributes"]["RedriveAllowPolicy"])
    assert allow == {"redrivePermission": "byQueue", "sourceQueueArns": ["q-arn"]}
    assert shop.create_queue(QueueSpec("q.fifo")) == []
    assert len(port.made("CreateQueue")) == 2


def test_listing_follows_every_page_and_takes_the_prefix_off() -> None:
    port = ScriptedPort(
        ListQueues=[{"QueueUrls": [URL + "prod-b"], "NextToken": "t"}, {"QueueUrls": [URL + "prod-a"]}]
    )
    assert broker(port, queue_name_prefix="prod-").list_queues() == ["a", "b"]
    assert [call.get("NextToken") for call in port.made("ListQueues")] == [None, "t"]
