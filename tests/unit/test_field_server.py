"""The contest's local server keeps what the contestants rely on: conditions, visibility, units (benchmarks/field)."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.field.server import queues as queues_module
from benchmarks.field.server.expressions import Expression
from benchmarks.field.server.queues import Queues
from benchmarks.field.server.refusal import Refusal
from benchmarks.field.server.tables import Tables
from cloudq.aws.errors import from_code
from cloudq.aws.port import Answer, AwsError, Call
from cloudq.backends.base import ABSENT, Matches
from cloudq.backends.dynamodb import DynamoBackend
from cloudq.errors import Conflict

SCHEMA = [{"AttributeName": name, "KeyType": "HASH"} for name in ("pk", "sk")]


class PortToTables:
    """cloudq's AWS port, straight into the tables."""

    region = "us-east-1"

    def __init__(self, tables: Tables) -> None:
        self.tables = tables

    def call(self, call: Call) -> Answer:
        params = {**call.params}
        try:
            found: Answer = getattr(self.tables, call.operation)(params)
        except Refusal as no:
            code = no.body["__type"].rpartition("#")[2]
            error = from_code(code, str(no), 400, call, {"Item": no.body.get("Item")})
            assert isinstance(error, AwsError), error
            raise error from no
        return found

    def close(self) -> None:
        pass


@pytest.fixture
def tables() -> Tables:
    tables = Tables()
    tables.CreateTable({"TableName": "t", "KeySchema": SCHEMA})
    return tables


@pytest.fixture
def store(tables: Tables) -> DynamoBackend:
    return DynamoBackend(PortToTables(tables), "t")


def test_a_first_write_is_refused_the_second_time(store: DynamoBackend) -> None:
    store.write("k", b"one", ABSENT)

    with pytest.raises(Conflict) as refused:
        store.write("k", b"two", ABSENT)
    assert refused.value.present is not None
    assert refused.value.present.value == b"one"


def test_a_write_over_a_version_needs_that_version(store: DynamoBackend) -> None:
    first = store.write("k", b"one", ABSENT)
    second = store.write("k", b"two", Matches(first))

    with pytest.raises(Conflict):
        store.write("k", b"three", Matches(first))
    store.delete("k", Matches(second))
    assert store.read("k") is None


def test_a_folder_lists_its_own_keys(store: DynamoBackend) -> None:
    for key in ("g/a/2", "g/a/1", "g/b/1"):
        store.write(key, b"")

    assert list(store.keys("g/a/")) == ["g/a/1", "g/a/2"]


def test_an_increment_counts_and_returns_what_changed(tables: Tables) -> None:
    key = {"pk": {"S": "c"}, "sk": {"S": "-"}}
    tables.PutItem({"TableName": "t", "Item": {**key, "chord_count": {"N": "0"}}})
    add = {
        "TableName": "t",
        "Key": key,
        "UpdateExpression": "set chord_count = chord_count + :num",
        "ExpressionAttributeValues": {":num": {"N": "1"}},
        "ReturnValues": "UPDATED_NEW",
    }

    assert [tables.UpdateItem(add) for _ in range(2)] == [
        {"Attributes": {"chord_count": {"N": "1"}}},
        {"Attributes": {"chord_count": {"N": "2"}}},
    ]


def test_a_conditional_insert_by_statement_fails_where_the_key_is(tables: Tables) -> None:
    statement: dict[str, Any] = {
        "Statement": """INSERT INTO "t" VALUE {'pk': ?, 'sk': ?}""",
        "Parameters": [{"S": "k"}, {"S": "-"}],
    }

    answers = [tables.BatchExecuteStatement({"Statements": [statement]}) for _ in range(2)]

    assert answers[0]["Responses"] == [{"TableName": "t"}]
    assert answers[1]["Responses"][0]["Error"]["Code"] == "DuplicateItem"


def test_units_go_by_size_and_consistency(tables: Tables) -> None:
    item = {"pk": {"S": "k"}, "sk": {"S": "-"}, "value": {"S": "x" * 1500}}
    tables.PutItem({"TableName": "t", "Item": item})
    assert tables.writes == 2

    get = {"TableName": "t", "Key": {"pk": {"S": "k"}, "sk": {"S": "-"}}}
    tables.GetItem(get)
    assert tables.reads == 0.5
    tables.GetItem({**get, "ConsistentRead": True})
    assert tables.reads == 1.5


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("attribute_not_exists(pk) OR #exp <= :now", True),
        ("attribute_not_exists(pk) AND #exp <= :now", False),
        ("NOT attribute_exists(pk) OR (#exp > :old AND begins_with(pk, :p))", True),
        ("missing = :now", False),
        ("NOT attribute_exists(pk)", False),
        ("#exp <> :old", True),
    ],
)
def test_conditions_mean_what_dynamodb_means(text: str, holds: bool) -> None:
    params = {
        "ExpressionAttributeNames": {"#exp": "exp"},
        "ExpressionAttributeValues": {":now": {"N": "10"}, ":old": {"N": "1"}, ":p": {"S": "ke"}},
    }
    item = {"pk": {"S": "key"}, "exp": {"N": "9.5"}}

    assert Expression(text, params, item).condition() is holds


def test_an_expression_nobody_taught_it_is_refused(tables: Tables) -> None:
    with pytest.raises(Refusal, match="does not know the expression"):
        Expression("size(a) % :b", {}, {}).condition()


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(queues_module, "time", clock)
    return clock


def received(queues: Queues, limit: int = 10, invisible: float = 30) -> list[dict[str, Any]]:
    params = {"QueueUrl": "/q", "MaxNumberOfMessages": limit, "VisibilityTimeout": invisible}
    found = queues.receive(params, lambda late: None, lambda: False)
    assert found is not None
    messages: list[dict[str, Any]] = found.get("Messages", [])
    return messages


def test_a_message_comes_back_after_its_visibility_timeout_unless_it_is_deleted(clock: Clock) -> None:
    queues = Queues()
    entries = [{"Id": str(n), "MessageBody": f"m{n}"} for n in range(3)]
    queues.SendMessageBatch({"QueueUrl": "/q", "Entries": entries})
    first = received(queues)
    queues.DeleteMessage({"QueueUrl": "/q", "ReceiptHandle": first[0]["ReceiptHandle"]})
    queues.ChangeMessageVisibility(
        {"QueueUrl": "/q", "ReceiptHandle": first[1]["ReceiptHandle"], "VisibilityTimeout": 90}
    )
    assert received(queues) == []

    clock.now += 31
    again = received(queues)

    assert [each["Body"] for each in again] == ["m2"]
    assert again[0]["Attributes"]["ApproximateReceiveCount"] == "2"
    clock.now += 60
    assert sorted(each["Body"] for each in received(queues)) == ["m1", "m2"]


def test_a_delayed_message_is_not_there_yet(clock: Clock) -> None:
    queues = Queues()
    queues.SendMessage({"QueueUrl": "/q", "MessageBody": "later", "DelaySeconds": 5})
    assert received(queues) == []

    clock.now += 5

    assert [each["Body"] for each in received(queues)] == ["later"]


def test_an_allowance_ends_what_a_queue_gives_away() -> None:
    queues = Queues()
    for n in range(5):
        queues.SendMessage({"QueueUrl": "/q", "MessageBody": f"m{n}"})
    queues.named("q").allowance = 3

    assert len(received(queues, limit=2)) == 2
    assert len(received(queues)) == 1
    assert received(queues) == []
    queues.named("q").allowance = None
    assert len(received(queues)) == 2


async def test_a_long_poll_is_answered_when_a_message_comes() -> None:
    queues = Queues()
    answers: list[dict[str, Any]] = []
    params = {"QueueUrl": "/q", "WaitTimeSeconds": 20}
    assert queues.receive(params, answers.append, lambda: False) is None
    assert queues.receive(params, answers.append, lambda: True) is None  # that one has hung up

    queues.SendMessage({"QueueUrl": "/q", "MessageBody": "one"})
    queues.SendMessage({"QueueUrl": "/q", "MessageBody": "two"})

    assert [each["Body"] for answer in answers for each in answer["Messages"]] == ["one"]
    assert len(queues.named("q").ready) == 1  # not lost with the poll that hung up
