"""The DynamoDB backend against a scripted port: keys, conditions, lost answers, pages, batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from aws_fakes import FrozenClock, ScriptedPort, aws_error

from cloudq.aws.port import AwsError, Call
from cloudq.backends.base import ABSENT, MAX_KEY_BYTES, Matches, Version
from cloudq.backends.dynamodb import (
    BATCH_ATTEMPTS,
    MAX_VALUE,
    DynamoBackend,
    from_item_key,
    from_url,
    to_item_key,
)
from cloudq.errors import Conflict, ImproperlyConfigured, ServiceUnavailable, StoreNotFound, ValueTooLarge
from cloudq.url import Url

NOW = 1_800_000_000.0


def store(port: Any, clock: FrozenClock | None = None) -> DynamoBackend:
    return DynamoBackend(port, "results", clock=clock or FrozenClock(NOW))


def item(key: str, value: bytes = b"v", ver: str = "1", exp: float | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {**to_item_key(key), "value": {"B": value}, "ver": {"S": ver}}
    if exp is not None:
        found["exp"] = {"N": repr(exp)}
    return found


def refused(present: Mapping[str, Any] | None = None) -> AwsError:
    return aws_error("ConditionalCheckFailedException", answer={"Item": present} if present else {})


@pytest.mark.parametrize(
    ("key", "pk", "sk"),
    [
        ("top", "top", "-"),
        ("task/1", "task/1", "-"),
        ("join/J/3", "join/J/", "3"),
        ("join/J/-", "join/J/", "-"),
        ("a/b/c/d", "a/b/c/", "d"),
    ],
)
def test_a_key_has_one_place_and_comes_back_from_it(key: str, pk: str, sk: str) -> None:
    assert to_item_key(key) == {"pk": {"S": pk}, "sk": {"S": sk}}
    assert from_item_key(to_item_key(key)) == key


def test_a_write_is_one_request_with_both_expiries() -> None:
    port = ScriptedPort(PutItem={})
    version = store(port).write("task/1", b"x", expires_at=NOW + 0.25)
    (params,) = port.made("PutItem")
    assert params["Item"] == {
        "pk": {"S": "task/1"},
        "sk": {"S": "-"},
        "value": {"B": b"x"},
        "ver": {"S": version},
        "exp": {"N": "1800000000.25"},
        "ttl": {"N": "1800000001"},
    }
    assert "ConditionExpression" not in params


def test_every_write_has_a_new_version() -> None:
    backend = store(ScriptedPort(PutItem={}))
    assert len({backend.write("k", b"same") for _ in range(100)}) == 100


def test_a_condition_not_met_brings_the_entry_that_is_there() -> None:
    present = item("task/1", b"old", "7", NOW + 60)
    backend = store(ScriptedPort(PutItem=refused(present), DeleteItem=refused(present)))
    for attempt in (
        lambda: backend.write("task/1", b"new", ABSENT),
        lambda: backend.write("task/1", b"new", Matches(Version("6"))),
        lambda: backend.delete("task/1", Matches(Version("6"))),
    ):
        with pytest.raises(Conflict) as caught:
            attempt()
        assert (caught.value.key, caught.value.present.value) == ("task/1", b"old")
        assert (caught.value.present.version, caught.value.present.expires_at) == ("7", NOW + 60)


def test_an_expired_entry_does_not_count_as_present() -> None:
    port = ScriptedPort(PutItem=refused(item("k", exp=NOW)), GetItem={"Item": item("k", exp=NOW)})
    with pytest.raises(Conflict) as caught:
        store(port).write("k", b"x", Matches(Version("1")))
    assert caught.value.present is None
    assert store(port).read("k") is None


class Repeating(ScriptedPort):
    """Plays DynamoDB's PutItem for one item; sends every write twice, as an SDK whose first answer
    was lost does."""

    def __init__(self) -> None:
        super().__init__(PutItem=self.put)
        self.item: Mapping[str, Any] | None = None

    def put(self, call: Call) -> dict[str, Any]:
        want = call.params.get("ExpressionAttributeValues", {}).get(":ver")
        absent = "attribute_not_exists(pk)" in call.params.get("ConditionExpression", "")
        if (absent and self.item) or (want and (not self.item or self.item["ver"] != want)):
            raise refused(self.item)
        self.item = call.params["Item"]
        return {}

    def call(self, call: Call) -> Mapping[str, Any]:
        try:
            super().call(call)
        except AwsError:
            pass  # this answer is the lost one
        return super().call(call)


def test_a_write_repeated_after_a_lost_answer_knows_its_own_version() -> None:
    port = Repeating()
    backend = store(port)
    first = backend.write("k", b"1", ABSENT)
    assert port.item is not None
    assert port.item["ver"]["S"] == first
    second = backend.write("k", b"2", Matches(first))
    assert port.item["value"]["B"] == b"2"
    with pytest.raises(Conflict) as caught:
        backend.write("k", b"3", ABSENT)
    assert caught.value.present.version == second
    assert port.item["value"]["B"] == b"2"


def test_reads_are_consistent_and_large_ones_go_by_hundreds() -> None:
    def reply(call: Call) -> dict[str, Any]:
        keys = call.params["RequestItems"]["results"]["Keys"]
        return {"Responses": {"results": [{**item("x"), **key} for key in keys[1:]]}}

    port = ScriptedPort(BatchGetItem=reply, GetItem={})
    keys = [f"task/{n}" for n in range(250)]
    found = store(port).read_many([*keys, "task/7"])
    assert list(found) == [key for key in keys if key not in ("task/0", "task/100", "task/200")]
    requests = [params["RequestItems"]["results"] for params in port.made("BatchGetItem")]
    assert [len(request["Keys"]) for request in requests] == [100, 100, 50]
    assert all(request["ConsistentRead"] for request in requests)
    assert store(port).read("k") is None
    assert port.made("GetItem")[0]["ConsistentRead"] is True


def test_keys_that_dynamodb_did_not_get_to_are_asked_for_again() -> None:
    left = {"results": {"Keys": [to_item_key("b")]}}
    port = ScriptedPort(
        BatchGetItem=[
            {"Responses": {"results": [item("a")]}, "UnprocessedKeys": left},
            {"Responses": {"results": [item("b")]}, "UnprocessedKeys": {}},
        ]
    )
    clock = FrozenClock(NOW)
    assert sorted(store(port, clock).read_many(["a", "b"])) == ["a", "b"]
    assert port.made("BatchGetItem")[1]["RequestItems"]["results"]["Keys"] == [to_item_key("b")]
    assert len(clock.slept) == 1


def test_keys_that_dynamodb_never_gets_to_are_an_error_not_absent() -> None:
    left = {"results": {"Keys": [to_item_key("a")]}}
    port = ScriptedPort(BatchGetItem={"Responses": {}, "UnprocessedKeys": left})
    with pytest.raises(ServiceUnavailable, match="1 keys of 'results'"):
        store(port).read_many(["a"])
    assert len(port.made("BatchGetItem")) == BATCH_ATTEMPTS


def test_a_deep_folder_is_a_consistent_query_page_by_page() -> None:
    start = to_item_key("join/J/1")
    port = ScriptedPort(
        Query=[
            {"Items": [to_item_key("join/J/0"), to_item_key("join/J/1")], "LastEvaluatedKey": start},
            {"Items": [to_item_key("join/J/2")]},
        ]
    )
    keys = store(port).keys("join/J/")
    assert next(keys) == "join/J/0"
    assert len(port.made("Query")) == 1
    assert list(keys) == ["join/J/1", "join/J/2"]
    first, second = port.made("Query")
    assert (first["ConsistentRead"], first["KeyConditionExpression"]) == (True, "pk = :prefix")
    assert second["ExclusiveStartKey"] == start


def test_a_top_level_folder_is_scanned_and_sorted_without_deeper_keys() -> None:
    found = [to_item_key(key) for key in ("task/b", "task/J/-", "task/a")]
    port = ScriptedPort(Scan=[{"Items": found[:2], "LastEvaluatedKey": found[1]}, {"Items": found[2:]}])
    assert list(store(port).keys("task/")) == ["task/a", "task/b"]


def test_a_value_over_the_items_limit_is_refused_before_anything_is_sent() -> None:
    port = ScriptedPort()
    with pytest.raises(ValueTooLarge, match=r"408001 bytes.*\?large=s3://"):
        store(port).write("k", b"x" * (MAX_VALUE + 1))
    assert port.calls == []


def test_the_largest_value_leaves_room_for_the_longest_key_and_the_other_attributes() -> None:
    port = ScriptedPort(PutItem={})
    key = "k/" * 449 + "xx"
    assert len(key) == MAX_KEY_BYTES
    store(port).write(key, b"x" * MAX_VALUE, expires_at=NOW + 1 / 3)
    # AWS's rule: names and values in UTF-8; a number costs about half a byte a digit, plus one.
    size = 0
    for name, typed in port.made("PutItem")[0]["Item"].items():
        ((kind, value),) = typed.items()
        size += len(name) + (len(value) // 2 + 2 if kind == "N" else len(value))
    assert MAX_VALUE < size <= 400 * 1024


def test_a_missing_table_says_which_and_what_to_do() -> None:
    missing = aws_error("ResourceNotFoundException")
    backend = store(ScriptedPort(GetItem=missing, PutItem=missing, Query=missing, BatchGetItem=missing))
    for attempt in (
        lambda: backend.read("k"),
        lambda: backend.write("k", b""),
        lambda: list(backend.keys("a/b/")),
        lambda: backend.read_many(["k"]),
    ):
        with pytest.raises(StoreNotFound, match=r"'results'.*Terraform"):
            attempt()


def test_other_errors_of_a_conditional_write_pass_through() -> None:
    with pytest.raises(AwsError, match="ValidationException"):
        store(ScriptedPort(PutItem=aws_error("ValidationException"))).write("k", b"", ABSENT)


def test_creating_the_table_waits_for_it_and_turns_ttl_on_once() -> None:
    port = ScriptedPort(
        CreateTable=[{}, aws_error("ResourceInUseException")],
        DescribeTable=[{"Table": {"TableStatus": "CREATING"}}, {"Table": {"TableStatus": "ACTIVE"}}],
        DescribeTimeToLive=[
            {"TimeToLiveDescription": {"TimeToLiveStatus": "DISABLED"}},
            {"TimeToLiveDescription": {"TimeToLiveStatus": "ENABLED"}},
        ],
        UpdateTimeToLive={},
    )
    backend = store(port)
    backend.create_table()
    backend.create_table()
    assert port.made("UpdateTimeToLive") == [
        {"TableName": "results", "TimeToLiveSpecification": {"Enabled": True, "AttributeName": "ttl"}}
    ]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("dynamodb://", "dynamodb://cloudq-results"),
        ("dynamodb://table/more", "one table"),
        ("dynamodb://table?ttl_attribute=pk", "ttl_attribute"),
        ("dynamodb://table?tabel=x", "no parameter 'tabel'"),
    ],
)
def test_a_wrong_url_says_what_to_write(url: str, words: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=words):
        from_url(Url.parse(url))
