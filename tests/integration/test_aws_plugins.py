"""The SQS broker and the DynamoDB store on local servers, beyond their contracts: the asyncio
driver, lost answers, limits, and what the admin side makes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from cloudq.aws.boto import BotoPort
from cloudq.aws.factory import make_async_port
from cloudq.aws.port import Call, Port, arun, run
from cloudq.backends.base import ABSENT, Matches
from cloudq.backends.dynamodb import DynamoBackend
from cloudq.brokers.base import Message, QueueSpec
from cloudq.brokers.sqs import SqsBroker
from cloudq.errors import Conflict


@pytest.fixture(params=["moto_url", "ministack_url"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.fixture
def port(url: str) -> Iterator[Port]:
    port = BotoPort(endpoint_url=url)
    yield port
    port.close()


@pytest.fixture
def broker(port: Port, unique: str) -> SqsBroker:
    return SqsBroker(port, queue_name_prefix=f"{unique}-")


class Twice:
    """A port whose every call's first answer is lost: it is sent again, as an SDK does."""

    def __init__(self, port: Port) -> None:
        self.port = port
        self.region = port.region

    def call(self, call: Call) -> Mapping[str, Any]:
        self.port.call(call)
        return self.port.call(call)

    def close(self) -> None: ...


def test_bodies_arrive_as_they_were_sent(broker: SqsBroker, port: Port) -> None:
    broker.create_queue(QueueSpec("q"))
    body = json.dumps({"task": "t", "args": ["é", "\u2028", "😀", "\x7f", "a\n\tb"]}, ensure_ascii=False)
    broker.send("q", [Message(body, attributes={"name": "wért"})])
    (got,) = broker.receive("q", 10, 1, 30)
    assert got.body == body
    assert got.attributes == {"name": "wért"}
    queue_url = port.call(Call("sqs", "GetQueueUrl", {"QueueName": broker._queues.physical("q")}))["QueueUrl"]
    answer = port.call(Call("sqs", "SendMessage", {"QueueUrl": queue_url, "MessageBody": body}))
    assert answer["MD5OfMessageBody"] == hashlib.md5(body.encode()).hexdigest()


def test_a_batch_of_large_messages_is_split_by_size(broker: SqsBroker) -> None:
    broker.create_queue(QueueSpec("q"))
    bodies = [str(n) * 400_000 for n in range(5)]
    assert len(set(broker.send("q", [Message(body) for body in bodies]))) == 5
    got: set[str] = set()
    for _ in range(20):
        got |= {delivery.body for delivery in broker.receive("q", 10, 1, 30)}
        if len(got) == 5:
            break
    assert got == set(bodies)


def test_fifo_runs_unrelated_messages_in_parallel_and_a_group_in_order(broker: SqsBroker) -> None:
    broker.create_queue(QueueSpec("q.fifo"))
    broker.send(
        "q.fifo", [Message("1", group_id="g"), Message("2", group_id="g"), Message("x"), Message("y")]
    )
    got = {delivery.body: delivery for delivery in broker.receive("q.fifo", 10, 1, 30)}
    assert {"1", "x", "y"} <= set(got)
    assert [body for body in got if body in "12"] in (["1"], ["1", "2"])
    assert got["1"].group_id == "g"


def test_a_repeated_fifo_send_is_accepted_once(port: Port, unique: str) -> None:
    broker = SqsBroker(Twice(port), queue_name_prefix=f"{unique}-")
    SqsBroker(port, queue_name_prefix=f"{unique}-").create_queue(QueueSpec("q.fifo"))
    broker.send("q.fifo", [Message("once")])
    assert broker.depth("q.fifo").total == 1


def test_a_buried_message_keeps_more_attributes_than_would_fit(broker: SqsBroker) -> None:
    broker.create_queue(QueueSpec("q"))
    many = {f"a{n}": str(n) for n in range(10)}
    broker.send("q", [Message("body", attributes=many)])
    (got,) = broker.receive("q", 1, 1, 30)
    assert got.attributes == many
    broker.bury(got, "unknown_task", "no task 'x'")
    (dead,) = broker.receive("q-dlq", 1, 1, 30)
    assert dead.body == "body"
    assert json.loads(dead.attributes["cloudq-attributes"]) == many
    assert dead.attributes["cloudq-reason"] == "unknown_task"
    assert dead.attributes["cloudq-queue"] == "q"
    assert broker.depth("q").total == 0


def test_a_second_source_is_added_to_a_shared_dead_letter_queue(unique: str, ministack_url: str) -> None:
    # moto does not give RedriveAllowPolicy back.
    port = BotoPort(endpoint_url=ministack_url)
    broker = SqsBroker(port, queue_name_prefix=f"{unique}-")
    assert broker.create_queue(QueueSpec("a", dead_letter_queue="dead")) == ["dead", "a"]
    assert broker.create_queue(QueueSpec("b", dead_letter_queue="dead")) == ["b"]
    found = run(port, broker._queues.attributes("dead", ["RedriveAllowPolicy", "MessageRetentionPeriod"]))
    policy = json.loads(found["RedriveAllowPolicy"])
    assert policy["redrivePermission"] == "byQueue"
    names = [arn.rpartition(":")[2] for arn in policy["sourceQueueArns"]]
    assert names == [f"{unique}-a", f"{unique}-b"]
    assert found["MessageRetentionPeriod"] == "1209600"
    port.close()


async def test_the_same_operations_run_on_asyncio(url: str, unique: str, broker: SqsBroker) -> None:
    broker.create_queue(QueueSpec("q"))
    port = make_async_port(endpoint_url=url)
    store = DynamoBackend(BotoPort(endpoint_url=url), unique)
    store.create_table()
    try:
        ids = await arun(port, broker.operations.send("q", [Message(str(n)) for n in range(12)]))
        assert len(set(ids)) == 12
        got = await arun(port, broker.operations.receive("q", 10, 1, 30))
        assert await arun(port, broker.operations.ack(got)) == []
        version = await arun(port, store.operations.write("task/1", b"v", ABSENT, None))
        entry = await arun(port, store.operations.read("task/1"))
        assert entry is not None
        assert (entry.value, entry.version) == (b"v", version)
        with pytest.raises(Conflict):
            await arun(port, store.operations.write("task/1", b"w", ABSENT, None))
    finally:
        await port.close()


def test_conditional_writes_survive_a_lost_answer(port: Port, unique: str) -> None:
    DynamoBackend(port, unique).create_table()
    store = DynamoBackend(Twice(port), unique)
    first = store.write("task/1", b"1", ABSENT)
    second = store.write("task/1", b"2", Matches(first))
    with pytest.raises(Conflict) as caught:
        store.write("task/1", b"3", Matches(first))
    assert caught.value.present.version == second
    entry = store.read("task/1")
    assert entry is not None
    assert (entry.value, entry.version) == (b"2", second)


def test_the_largest_value_fits(ministack_url: str, unique: str) -> None:
    # moto counts binary values in base64 and refuses from about 300 KB.
    store = DynamoBackend(BotoPort(endpoint_url=ministack_url), unique)
    store.create_table()
    largest = store.capabilities.max_value
    assert largest is not None
    store.write("k", b"x" * largest, expires_at=4e9)
    entry = store.read("k")
    assert entry is not None
    assert len(entry.value) == largest


def test_a_large_folder_is_listed_page_by_page_and_read_in_batches(port: Port, unique: str) -> None:
    store = DynamoBackend(port, unique)
    store.create_table()
    keys = [f"join/J/{n:03}" for n in range(130)]
    for key in keys:
        store.write(key, b"x" * 10_000)
    assert list(store.keys("join/J/")) == keys
    assert sorted(store.read_many(keys)) == keys
