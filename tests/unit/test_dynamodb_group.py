"""First writes of several threads go to DynamoDB together, and each keeps its condition and its own outcome."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from aws_fakes import FrozenClock, aws_error
from recorded import ACCOUNT, REGION, Asked, Policy, asked

from cloudq.aws.port import AwsError, Call
from cloudq.backends.base import ABSENT, ALWAYS, Matches, Version
from cloudq.backends.dynamodb import DynamoBackend, from_url
from cloudq.backends.dynamodb_group import AWAY, MOST, ROOM
from cloudq.deploy.iam import TableRights, policy
from cloudq.errors import Conflict, ImproperlyConfigured, ServiceUnavailable
from cloudq.url import Url

PATIENCE = 60.0


class Table:
    """A table whose calls wait until they are let through. ``before`` may refuse a call, ``after`` lose its answer."""

    region = "eu-west-1"

    def __init__(self) -> None:
        self.items: dict[str, Mapping[str, Any]] = {}
        self.calls: list[tuple[str, int]] = []
        self.arrived = threading.Semaphore(0)
        self.let = threading.Semaphore(0)
        self.gated = False
        self.lock = threading.Lock()
        self.before: Callable[[Call], None] = lambda call: None
        self.after: Callable[[Call], None] = lambda call: None

    def call(self, call: Call) -> dict[str, Any]:
        statements = call.params.get("Statements", ())
        with self.lock:
            self.calls.append((call.operation, len(statements)))
        self.arrived.release()
        if self.gated:
            assert self.let.acquire(timeout=PATIENCE)
        self.before(call)
        with self.lock:
            answer = getattr(self, call.operation)(call.params)
        self.after(call)
        found: dict[str, Any] = answer
        return found

    def PutItem(self, params: Mapping[str, Any]) -> dict[str, Any]:
        item = params["Item"]
        present = self.items.get(item["pk"]["S"])
        if "ConditionExpression" in params and present is not None:
            raise aws_error("ConditionalCheckFailedException", answer={"Item": present})
        self.items[item["pk"]["S"]] = item
        return {}

    def BatchExecuteStatement(self, params: Mapping[str, Any]) -> dict[str, Any]:
        names = [statement_fields(each["Statement"]) for each in params["Statements"]]
        items = [
            dict(zip(fields, each["Parameters"], strict=True))
            for fields, each in zip(names, params["Statements"], strict=True)
        ]
        keys = [each["pk"]["S"] for each in items]
        if len(set(keys)) != len(keys):
            raise aws_error("ValidationException")
        answers = []
        for key, item in zip(keys, items, strict=True):
            if key in self.items:
                answers.append({"Error": {"Code": "DuplicateItem", "Message": "it is there"}})
            else:
                self.items[key] = item
                answers.append({"TableName": "results"})
        return {"Responses": answers}

    def close(self) -> None:
        pass


def statement_fields(statement: str) -> list[str]:
    head, _, fields = statement.partition("{")
    assert head == 'INSERT INTO "results" VALUE '
    return [each.split("'")[1] for each in fields.rstrip("}").split(", ")]


class Writers:
    """Threads that write one key each."""

    def __init__(self, backend: DynamoBackend) -> None:
        self.backend = backend
        self.outcomes: list[Any] = []
        self._threads: list[threading.Thread] = []

    def write(self, key: str, value: bytes = b"v") -> None:
        place = len(self.outcomes)
        self.outcomes.append(None)

        def run() -> None:
            try:
                self.outcomes[place] = self.backend.write(key, value, ABSENT)
            except Exception as error:
                self.outcomes[place] = error

        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()

    def join(self) -> list[Any]:
        for each in self._threads:
            each.join(PATIENCE)
            assert not each.is_alive()
        return self.outcomes


@pytest.fixture
def table() -> Iterator[Table]:
    table = Table()
    yield table
    for _ in range(100):
        table.let.release()


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture
def writers(table: Table, clock: FrozenClock) -> Writers:
    return Writers(DynamoBackend(table, "results", clock=clock, group_commit=True))


def crowd(table: Table, writers: Writers, keys: list[str]) -> None:
    """One write is under way, and these wait behind it."""
    table.gated = True
    writers.write("first")
    assert table.arrived.acquire(timeout=PATIENCE)
    firsts = writers.backend._firsts
    assert firsts is not None
    for n, key in enumerate(keys, 1):
        writers.write(key)
        deadline = time.monotonic() + PATIENCE
        while len(firsts) < n:
            assert time.monotonic() < deadline
            time.sleep(0.001)


def go(table: Table) -> None:
    table.gated = False
    table.let.release()


def test_one_write_alone_is_one_put(table: Table, writers: Writers) -> None:
    writers.write("a")
    (version,) = writers.join()
    assert table.calls == [("PutItem", 0)]
    assert table.items["a"]["ver"] == {"S": version}


def test_what_comes_during_a_write_goes_together(table: Table, writers: Writers) -> None:
    crowd(table, writers, ["a", "b", "c"])
    go(table)
    versions = writers.join()
    assert table.calls == [("PutItem", 0), ("BatchExecuteStatement", 3)]
    assert [table.items[key]["ver"]["S"] for key in ("first", "a", "b", "c")] == versions
    assert table.items["a"]["value"] == {"B": b"v"}


def test_a_call_takes_twenty_five(table: Table, writers: Writers) -> None:
    crowd(table, writers, [f"k{n}" for n in range(MOST + 1)])
    go(table)
    writers.join()
    assert table.calls == [("PutItem", 0), ("BatchExecuteStatement", MOST), ("PutItem", 0)]


def test_one_whose_key_is_taken_learns_what_is_there_and_the_others_are_written(
    table: Table, writers: Writers
) -> None:
    there = {"pk": {"S": "b"}, "sk": {"S": "-"}, "value": {"B": b"old"}, "ver": {"S": "7"}}
    table.items["b"] = there
    crowd(table, writers, ["a", "b", "c"])
    go(table)
    outcomes = writers.join()
    conflict = outcomes[2]
    assert isinstance(conflict, Conflict)
    assert conflict.present.value == b"old"
    assert table.items["b"] == there
    assert [table.items[key]["ver"]["S"] for key in ("a", "c")] == [outcomes[1], outcomes[3]]


def test_two_writers_of_one_key_are_not_in_one_batch_and_one_of_them_wins(
    table: Table, writers: Writers
) -> None:
    crowd(table, writers, ["a", "a", "b"])
    go(table)
    outcomes = writers.join()
    assert ("BatchExecuteStatement", 2) in table.calls
    assert sum(isinstance(each, Conflict) for each in outcomes) == 1
    assert table.items["a"]["ver"]["S"] in outcomes


def test_a_batch_whose_answer_is_lost_has_written_all_the_same(table: Table, writers: Writers) -> None:
    def lose(call: Call) -> None:
        if call.operation == "BatchExecuteStatement":
            raise ServiceUnavailable("no answer")

    table.after = lose
    crowd(table, writers, ["a", "b"])
    go(table)
    versions = writers.join()
    assert [table.items[key]["ver"]["S"] for key in ("first", "a", "b")] == versions
    assert table.calls.count(("PutItem", 0)) == 3


@pytest.mark.parametrize(
    "code", ["AccessDeniedException", "UnknownOperationException", "InternalServerError"]
)
def test_where_batches_are_refused_each_writes_by_itself_for_a_while(
    table: Table, writers: Writers, clock: FrozenClock, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(call: Call) -> None:
        if call.operation == "BatchExecuteStatement":
            raise AwsError(code, "no", service="dynamodb", operation=call.operation)

    table.before = refuse
    crowd(table, writers, ["a", "b"])
    go(table)
    versions = writers.join()
    assert [table.items[key]["ver"]["S"] for key in ("first", "a", "b")] == versions
    assert "dynamodb:PartiQLInsert" in caplog.text

    table.before = lambda call: None
    del table.calls[:]
    writers.backend.write("c", b"v", ABSENT)
    assert writers.backend._firsts is not None
    assert writers.backend._firsts._not_before == clock.monotonic() + AWAY


def test_an_outage_is_each_writers_own_error(table: Table, writers: Writers) -> None:
    def away(call: Call) -> None:
        raise ServiceUnavailable("away")

    table.before = away
    crowd(table, writers, ["a", "b"])
    go(table)
    assert {str(each) for each in writers.join()} == {"away"}
    assert table.items == {}


def test_other_conditions_and_large_values_are_written_as_ever(table: Table, writers: Writers) -> None:
    backend = writers.backend
    backend.write("a", b"v", ALWAYS)
    with pytest.raises(Conflict):
        backend.write("a", b"v", Matches(Version("other")))
    backend.write("large", b"x" * (ROOM + 1), ABSENT)
    assert {each for each, _ in table.calls} == {"PutItem"}


def test_its_policy_allows_what_it_calls_and_nothing_else_is_new(table: Table, writers: Writers) -> None:
    seen: set[Asked] = set()
    table.before = lambda call: seen.update(asked(call))
    crowd(table, writers, ["a", "b"])
    go(table)
    writers.join()
    arn = f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/results"
    needed = {each.action for each in seen}
    assert needed == {"dynamodb:PutItem", "dynamodb:PartiQLInsert"}
    for role in ("publisher", "worker", "lambda", "operator"):
        together, plain = (Policy(policy(role, [TableRights(arn, together=each)])) for each in (True, False))
        assert all(together.allows(each) for each in seen)
        assert {each.action for each in seen if not plain.allows(each)} == {"dynamodb:PartiQLInsert"}


def test_it_is_asked_for_in_the_url() -> None:
    def made(query: str) -> DynamoBackend:
        return from_url(Url.parse(f"dynamodb://t?region=eu-west-1{query}"))

    assert made("")._firsts is None
    assert made("&group_commit=false")._firsts is None
    assert made("&group_commit=true")._firsts is not None
    with pytest.raises(ImproperlyConfigured, match="group_commit is true or false, not 'yes'"):
        made("&group_commit=yes")
