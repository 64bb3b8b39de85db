"""Sending on SQS: what is refused beforehand, how batches are packed, what partial failures do."""

from __future__ import annotations

import pytest
from aws_fakes import URL, FrozenClock, ScriptedPort, aws_error, refuses, takes_all

from cloudq.brokers.base import BrokerCapabilities, Message, message_size
from cloudq.brokers.sqs import ENTRY_ATTEMPTS, SqsBroker, from_url
from cloudq.brokers.sqs_entry import pack
from cloudq.errors import (
    ImproperlyConfigured,
    MessageTooLarge,
    QueueNotFound,
    SendError,
    SerializationError,
    ServiceUnavailable,
    Unsupported,
)
from cloudq.url import Url

MIB = 1_048_576
BROKEN = ("InternalError", "try again", False)
BAD = ("InvalidMessageContents", "bad", True)


def broker(port: ScriptedPort, **options: object) -> SqsBroker:
    return SqsBroker(port, clock=FrozenClock(), **options)  # type: ignore[arg-type]


def sent_ids(port: ScriptedPort) -> list[list[str]]:
    return [[entry["Id"] for entry in params["Entries"]] for params in port.made("SendMessageBatch")]


def test_one_message_is_sent_with_send_message() -> None:
    port = ScriptedPort(SendMessage={"MessageId": "m"})
    assert broker(port).send("q", [Message("hi", delay=1.2, attributes={"a": "b"}, group_id="t")]) == ["m"]
    assert port.made("SendMessage") == [
        {
            "QueueUrl": URL + "q",
            "MessageBody": "hi",
            "DelaySeconds": 2,
            "MessageAttributes": {"a": {"DataType": "String", "StringValue": "b"}},
            "MessageGroupId": "t",
        }
    ]


def test_nothing_to_send_makes_no_call() -> None:
    port = ScriptedPort()
    assert broker(port).send("q", []) == []
    assert port.calls == []


def test_the_queue_url_is_asked_for_once_and_nothing_is_listed() -> None:
    port = ScriptedPort(SendMessage={"MessageId": "m"})
    shop = broker(port, queue_name_prefix="prod-", account="210987654321")
    shop.send("q", [Message("1")])
    shop.send("q", [Message("2")])
    assert port.made("GetQueueUrl") == [{"QueueName": "prod-q", "QueueOwnerAWSAccountId": "210987654321"}]
    assert {call.operation for call in port.calls} == {"GetQueueUrl", "SendMessage"}


def test_a_configured_queue_url_needs_no_lookup() -> None:
    port = ScriptedPort(SendMessage={"MessageId": "m"})
    broker(port, queue_urls={"q": "https://there/q"}).send("q", [Message("1")])
    assert [call.operation for call in port.calls] == ["SendMessage"]
    assert port.made("SendMessage")[0]["QueueUrl"] == "https://there/q"


@pytest.mark.parametrize(("delay", "seconds"), [(0.01, 1), (1.0, 1), (1.001, 2), (899.5, 900), (900, 900)])
def test_a_delay_is_never_rounded_to_early(delay: float, seconds: int) -> None:
    port = ScriptedPort(SendMessage={"MessageId": "m"})
    broker(port).send("q", [Message("x", delay=delay)])
    assert port.made("SendMessage")[0]["DelaySeconds"] == seconds


def test_without_a_delay_the_queues_own_applies() -> None:
    port = ScriptedPort(SendMessage={"MessageId": "m"})
    broker(port).send("q", [Message("x")])
    assert "DelaySeconds" not in port.made("SendMessage")[0]


@pytest.mark.parametrize(
    ("queue", "message", "error", "words"),
    [
        ("q", Message("x", delay=900.5), Unsupported, "900 s"),
        ("q.fifo", Message("x", delay=1), Unsupported, "FIFO"),
        ("q", Message("x" * (MIB + 1)), MessageTooLarge, str(MIB)),
        ("q", Message("é" * (MIB // 2), attributes={"a": "b"}), MessageTooLarge, str(MIB + 8)),
        ("q", Message("a\x00b"), SerializationError, "U+0000 at position 1"),
        ("q", Message("\x0b"), SerializationError, "U+000B"),
        ("q", Message("\x1f"), SerializationError, "U+001F"),
        ("q", Message("\ufffe"), SerializationError, "U+FFFE"),
        ("q", Message("\uffff"), SerializationError, "U+FFFF"),
        ("q", Message("\ud800"), SerializationError, "U+D800"),
        ("q", Message(""), SerializationError, "empty"),
        ("q", Message("x", attributes={"a": "\x01"}), SerializationError, "attribute 'a'"),
        ("q", Message("x", attributes={"a": ""}), SerializationError, "attribute 'a'"),
        ("q", Message("x", attributes={"AWS.x": "1"}), Unsupported, "AWS.x"),
        (
            "q",
            Message("x", attributes={str(n): "1" for n in range(11)}),
            Unsupported,
            "10 message attributes",
        ),
        ("q", Message("x", group_id="Acme Ltd"), Unsupported, "Acme Ltd"),
        ("q.fifo", Message("x", dedup_id="x" * 129), Unsupported, "dedup id"),
    ],
)
def test_what_sqs_would_refuse_is_refused_before_anything_is_sent(
    queue: str, message: Message, error: type[Exception], words: str
) -> None:
    port = ScriptedPort()
    with pytest.raises(error, match=words.replace("+", r"\+")):
        broker(port).send(queue, [Message("good"), message])
    assert port.calls == []


def test_every_character_that_sqs_allows_goes_through() -> None:
    body = "\t\n\r ~\x7f\x80\ud7ff\ue000\ufffd\U00010000\U0010ffff"
    port = ScriptedPort(SendMessage={"MessageId": "m"})
    broker(port).send("q", [Message(body)])
    assert port.made("SendMessage")[0]["MessageBody"] == body


def test_a_message_of_exactly_the_limit_is_sent() -> None:
    port = ScriptedPort(SendMessage={"MessageId": "m"})
    message = Message("x" * (MIB - 8), attributes={"a": "b"})
    assert message_size(message) == MIB
    assert broker(port).send("q", [message]) == ["m"]


def test_batches_hold_ten_messages() -> None:
    port = ScriptedPort(SendMessageBatch=takes_all)
    ids = broker(port).send("q", [Message("x")] * 25)
    assert [len(batch) for batch in sent_ids(port)] == [10, 10, 5]
    assert ids == [f"id-{n}" for n in range(25)]


def test_batches_hold_one_mebibyte_counted_with_attributes() -> None:
    port = ScriptedPort(SendMessageBatch=takes_all)
    half = Message("é" * (MIB // 4 - 4), attributes={"a": "b"})  # exactly half a MiB
    assert message_size(half) == MIB // 2
    more = Message("é" * (MIB // 4 - 4), attributes={"a": "bc"})
    broker(port).send("q", [half, half, half, more, more])
    assert sent_ids(port) == [["0", "1"], ["2"], ["3"], ["4"]]


def test_packing_leaves_nothing_out_and_keeps_the_order() -> None:
    assert [list(part) for part in pack([5, 5, 1, 9, 1], 10, 10)] == [[0, 1], [2, 3], [4]]
    assert [list(part) for part in pack([20], 10, 10)] == [[0]]
    assert list(pack([], 10, 10)) == []


def test_only_the_entries_that_failed_are_sent_again() -> None:
    port = ScriptedPort(SendMessageBatch=[refuses({"1": BROKEN}), takes_all])
    clock = FrozenClock()
    ids = SqsBroker(port, clock=clock).send("q", [Message(str(n)) for n in range(3)])
    assert sent_ids(port) == [["0", "1", "2"], ["1"]]
    assert ids == ["id-0", "id-1", "id-2"]
    assert len(clock.slept) == 1
    assert clock.slept[0] > 0


def test_a_throttled_entry_is_sent_again_although_sqs_calls_it_the_senders_fault() -> None:
    throttled = ("AWS.SimpleQueueService.RequestThrottled", "slow down", True)
    port = ScriptedPort(SendMessageBatch=[refuses({"0": throttled}), takes_all])
    broker(port).send("q", [Message("a"), Message("b")])
    assert sent_ids(port) == [["0", "1"], ["0"]]


def test_an_entry_that_is_the_senders_fault_fails_at_once_with_its_position() -> None:
    port = ScriptedPort(SendMessageBatch=[refuses({"1": BAD}), takes_all])
    with pytest.raises(SendError) as caught:
        broker(port).send("q", [Message(str(n)) for n in range(12)])
    assert list(caught.value.failures) == [1]
    assert "InvalidMessageContents" in str(caught.value.failures[1])
    assert sorted(caught.value.sent) == [0, *range(2, 12)]
    assert [len(batch) for batch in sent_ids(port)] == [10, 2]


def test_an_entry_that_goes_on_failing_is_given_up_after_some_tries() -> None:
    port = ScriptedPort(SendMessageBatch=refuses({"0": BROKEN}))
    with pytest.raises(SendError) as caught:
        broker(port).send("q", [Message("a"), Message("b")])
    assert len(port.made("SendMessageBatch")) == ENTRY_ATTEMPTS
    assert isinstance(caught.value.failures[0], ServiceUnavailable)
    assert caught.value.sent == {1: "id-1"}


def test_an_error_of_the_first_call_is_raised_as_it_is() -> None:
    port = ScriptedPort(SendMessageBatch=ServiceUnavailable("down"))
    with pytest.raises(ServiceUnavailable, match="down"):
        broker(port).send("q", [Message("a")] * 12)


def test_an_error_of_a_later_call_says_what_was_sent_and_what_not() -> None:
    port = ScriptedPort(SendMessageBatch=[takes_all, ServiceUnavailable("down")])
    with pytest.raises(SendError) as caught:
        broker(port).send("q", [Message("a")] * 25)
    assert sorted(caught.value.sent) == list(range(10))
    assert sorted(caught.value.failures) == list(range(10, 25))
    assert len(port.made("SendMessageBatch")) == 2


def test_on_fifo_unrelated_messages_get_groups_of_their_own() -> None:
    port = ScriptedPort(SendMessageBatch=takes_all)
    messages = [Message("same"), Message("same"), Message("x", dedup_id="d"), Message("x", group_id="g")]
    broker(port).send("q.fifo", messages)
    entries = port.made("SendMessageBatch")[0]["Entries"]
    groups = [entry["MessageGroupId"] for entry in entries]
    assert len(set(groups)) == 4
    assert groups[2:] == ["d", "g"]
    assert len({entry["MessageDeduplicationId"] for entry in entries}) == 4
    assert entries[2]["MessageDeduplicationId"] == "d"


def test_on_fifo_a_retried_entry_keeps_its_dedup_id() -> None:
    port = ScriptedPort(SendMessageBatch=[refuses({"0": BROKEN}), takes_all])
    broker(port).send("q.fifo", [Message("a"), Message("b")])
    first, second = port.made("SendMessageBatch")
    assert first["Entries"][0]["MessageDeduplicationId"] == second["Entries"][0]["MessageDeduplicationId"]


def test_a_missing_queue_is_named_with_its_region_and_the_way_out() -> None:
    port = ScriptedPort(GetQueueUrl=aws_error("AWS.SimpleQueueService.NonExistentQueue"))
    with pytest.raises(QueueNotFound, match=r"'prod-q' in us-east-1.*`cloudq queues create q`.*Terraform"):
        broker(port, queue_name_prefix="prod-").send("q", [Message("a")])


def test_a_queue_that_was_deleted_is_looked_up_anew() -> None:
    gone = aws_error("AWS.SimpleQueueService.NonExistentQueue")
    port = ScriptedPort(SendMessage=[gone, {"MessageId": "m"}])
    shop = broker(port)
    with pytest.raises(QueueNotFound):
        shop.send("q", [Message("a")])
    assert shop.send("q", [Message("a")]) == ["m"]
    assert len(port.made("GetQueueUrl")) == 2


def test_a_queue_with_a_smaller_limit_of_its_own_says_so() -> None:
    text = "One or more parameters are invalid. Reason: Message must be shorter than 262144 bytes."
    port = ScriptedPort(SendMessage=aws_error("InvalidParameterValue", text))
    with pytest.raises(MessageTooLarge, match=r"262144.*\?max_body="):
        broker(port).send("q", [Message("x" * 300_000)])


def test_max_body_narrows_messages_and_batches() -> None:
    shop = broker(ScriptedPort(SendMessageBatch=takes_all), capabilities=BrokerCapabilities(max_body=1_024))
    with pytest.raises(MessageTooLarge, match="1024"):
        shop.send("q", [Message("x" * 1_025)])


def test_the_url_sets_what_it_says() -> None:
    shop = from_url(
        Url.parse("sqs://?region=eu-west-1&max_body=262144&wait_time_seconds=5&visibility_timeout=90")
    )
    assert shop.capabilities.max_body == 262_144
    assert shop.capabilities.max_wait == 5
    assert shop.visibility_timeout == 90
    assert shop.url == "sqs://?region=eu-west-1&max_body=262144&wait_time_seconds=5&visibility_timeout=90"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqs://eu-west-1", r"sqs://\?region=eu-west-1"),
        ("sqs://?regoin=x", "did you mean 'region'"),
        ("sqs://?wait_time_seconds=21", "0 to 20"),
    ],
)
def test_a_wrong_url_says_what_to_write(url: str, words: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=words):
        from_url(Url.parse(url))
