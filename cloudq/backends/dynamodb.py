"""The results store on Amazon DynamoDB: one table, one request a verb.

Table: ``pk`` (S) and ``sk`` (S). A key with at most one slash is a partition of its own
(``pk`` = the key, ``sk`` = ``-``); a deeper one lies in its folder's partition (``pk`` = the folder
with its last slash, ``sk`` = the last segment), so that listing a folder is a consistent Query.
Item: ``value`` (B), ``ver`` (S, fresh at every write), ``exp`` (N, exact expiry, what is compared) and
the TTL attribute (N, the same in whole seconds, what DynamoDB deletes by).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

from cloudq.aws.factory import make_port
from cloudq.aws.port import Answer, AwsError, Call, Operation, Pause, Port, run
from cloudq.backends.base import (
    ABSENT,
    ALWAYS,
    Absent,
    BackendCapabilities,
    Condition,
    Entry,
    Matches,
    Version,
    check_folder,
    check_key,
)
from cloudq.backends.dynamodb_group import First, FirstWrites
from cloudq.clock import SYSTEM_CLOCK, Clock
from cloudq.errors import (
    Conflict,
    ImproperlyConfigured,
    OperationalError,
    ServiceUnavailable,
    StoreNotFound,
    ValueTooLarge,
)
from cloudq.retry import backoff
from cloudq.url import Url

T = TypeVar("T")
Item = Mapping[str, Mapping[str, Any]]

#: An item has at most 400 KB, names and key included; this much is left for the value.
MAX_VALUE: Final = 408_000
#: Keys in one BatchGetItem.
BATCH: Final = 100
#: Tries of keys that DynamoDB did not get to, and the waits between them.
BATCH_ATTEMPTS: Final = 8
BATCH_BACKOFF: Final = (0.05, 2.0)
#: Seconds to wait for a table to be made or gone, and between two looks.
TABLE_WAIT: Final = 120.0
TABLE_POLL: Final = 0.5

_FLAT: Final = "-"
_IS_MINE: Final = "ver = :ver AND (attribute_not_exists(#exp) OR #exp > :now)"
_IS_ABSENT: Final = "attribute_not_exists(pk) OR #exp <= :now"


def from_url(url: Url, clock: Clock = SYSTEM_CLOCK) -> DynamoBackend:
    """``dynamodb://table?region=&endpoint_url=&profile=&driver=lean&ttl_attribute=ttl&group_commit=false``

    ``group_commit``: first writes of threads that write at once go together (``dynamodb_group``).
    """
    options = url.options(("region", "endpoint_url", "profile", "driver", "ttl_attribute", "group_commit"))
    if not url.host or url.path:
        raise ImproperlyConfigured(
            f"dynamodb:// names one table and nothing more, got {url}: write dynamodb://cloudq-results"
        )
    ttl_attribute = options.get("ttl_attribute", "ttl")
    if not ttl_attribute or ttl_attribute in ("pk", "sk", "value", "ver", "exp"):
        raise ImproperlyConfigured(f"dynamodb://: ttl_attribute cannot be {ttl_attribute!r}")
    port = make_port(
        options.get("region"),
        options.get("endpoint_url"),
        options.get("profile"),
        options.get("driver", "lean"),
    )
    grouped = options.get("group_commit", "false")
    if grouped not in ("true", "false"):
        raise ImproperlyConfigured(f"dynamodb://: group_commit is true or false, not {grouped!r}")
    return DynamoBackend(
        port, url.host, url=str(url), ttl_attribute=ttl_attribute, clock=clock, group_commit=grouped == "true"
    )


def to_item_key(key: str) -> dict[str, dict[str, str]]:
    """Where a key lies in the table."""
    if key.count("/") < 2:
        return {"pk": {"S": key}, "sk": {"S": _FLAT}}
    folder, _, last = key.rpartition("/")
    return {"pk": {"S": folder + "/"}, "sk": {"S": last}}


def from_item_key(item: Item) -> str:
    """The key of an item."""
    pk: str = item["pk"]["S"]
    sk: str = item["sk"]["S"]
    return pk + sk if pk.endswith("/") else pk


class DynamoOperations:
    """What to call and how to read the answer; no I/O, no waiting."""

    def __init__(self, table: str, ttl_attribute: str, max_value: int, clock: Clock) -> None:
        self._table = table
        self._ttl = ttl_attribute
        self._max_value = max_value
        self._clock = clock

    def _call(self, operation: str, params: Mapping[str, Any]) -> Operation[Answer]:
        try:
            return (yield Call("dynamodb", operation, params))
        except AwsError as error:
            if error.code != "ResourceNotFoundException":
                raise
            raise StoreNotFound(
                f"there is no DynamoDB table {self._table!r} in this region and account: create it with "
                "Terraform (modules/results) or `cloudq local`, or check the backend URL and ?region="
            ) from error

    def _entry(self, item: Item | None) -> Entry | None:
        """The entry of an item, unless there is none or it has expired."""
        if not item:
            return None
        expires_at = float(item["exp"]["N"]) if "exp" in item else None
        if expires_at is not None and expires_at <= self._clock.time():
            return None
        return Entry(bytes(item["value"]["B"]), Version(item["ver"]["S"]), expires_at)

    def read(self, key: str) -> Operation[Entry | None]:
        """See ``ResultBackend.read``."""
        params = {"TableName": self._table, "Key": to_item_key(check_key(key)), "ConsistentRead": True}
        answer = yield from self._call("GetItem", params)
        return self._entry(answer.get("Item"))

    def read_many(self, keys: Iterable[str]) -> Operation[dict[str, Entry]]:
        """See ``ResultBackend.read_many``."""
        wanted = [to_item_key(check_key(key)) for key in dict.fromkeys(keys)]
        found: dict[str, Entry] = {}
        for start in range(0, len(wanted), BATCH):
            yield from self._read_batch(wanted[start : start + BATCH], found)
        return found

    def _read_batch(self, keys: Sequence[Mapping[str, Any]], found: dict[str, Entry]) -> Operation[None]:
        waits = backoff(*BATCH_BACKOFF)
        tries = 0
        while keys:
            request = {self._table: {"Keys": keys, "ConsistentRead": True}}
            answer = yield from self._call("BatchGetItem", {"RequestItems": request})
            for item in answer.get("Responses", {}).get(self._table, []):
                entry = self._entry(item)
                if entry is not None:
                    found[from_item_key(item)] = entry
            left = answer.get("UnprocessedKeys", {}).get(self._table, {}).get("Keys", [])
            # 16 MB an answer: large values come in many rounds, each of which must bring some.
            tries = tries + 1 if len(left) == len(keys) else 0
            keys = left
            if tries >= BATCH_ATTEMPTS:
                raise ServiceUnavailable(
                    f"DynamoDB did not read {len(keys)} keys of {self._table!r} in {tries} tries: "
                    "the table is throttled; try again later or raise its capacity"
                )
            if keys:
                yield Pause(next(waits))

    def write(self, key: str, value: bytes, when: Condition, expires_at: float | None) -> Operation[Version]:
        """See ``ResultBackend.write``: one PutItem."""
        return (yield from self.put(key, self.item(key, value, expires_at), when))

    def item(self, key: str, value: bytes, expires_at: float | None) -> dict[str, Any]:
        """The item of an entry, with a fresh version. Raises ValueTooLarge."""
        if len(value) > self._max_value:
            raise ValueTooLarge(
                f"{key!r}: {len(value)} bytes, a DynamoDB item holds {self._max_value}: add a tier for large "
                "values (dynamodb://TABLE?large=s3://BUCKET), or return a reference instead"
            )
        item: dict[str, Any] = {
            **to_item_key(check_key(key)),
            "value": {"B": value},
            "ver": {"S": os.urandom(8).hex()},
        }
        if expires_at is not None:
            item["exp"] = {"N": repr(float(expires_at))}
            item[self._ttl] = {"N": str(math.ceil(expires_at))}
        return item

    def put(self, key: str, item: Item, when: Condition) -> Operation[Version]:
        """Write an item. The same one may have been written before, by a call whose answer was lost."""
        version = Version(item["ver"]["S"])
        params = {"TableName": self._table, "Item": item, **self._condition(when)}
        try:
            yield from self._call("PutItem", params)
        except AwsError as error:
            present = self._present(key, error)
            # A retry after a lost answer meets what its first try wrote.
            if present is None or present.version != version:
                raise Conflict(key, present) from error
        return version

    def delete(self, key: str, when: Condition) -> Operation[None]:
        """See ``ResultBackend.delete``: one DeleteItem."""
        if isinstance(when, Absent):
            raise ValueError("delete(when=ABSENT) makes no sense: there would be nothing to delete")
        params = {"TableName": self._table, "Key": to_item_key(check_key(key)), **self._condition(when)}
        try:
            yield from self._call("DeleteItem", params)
        except AwsError as error:
            raise Conflict(key, self._present(key, error)) from error

    def _condition(self, when: Condition) -> dict[str, Any]:
        if when == ALWAYS:
            return {}
        values: dict[str, Any] = {":now": {"N": repr(self._clock.time())}}
        if isinstance(when, Matches):
            values[":ver"] = {"S": when.version}
        return {
            "ConditionExpression": _IS_ABSENT if when == ABSENT else _IS_MINE,
            "ExpressionAttributeNames": {"#exp": "exp"},
            "ExpressionAttributeValues": values,
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }

    def _present(self, key: str, error: AwsError) -> Entry | None:
        """The entry that failed the condition; any other error goes on its way."""
        if error.code != "ConditionalCheckFailedException":
            raise error
        return self._entry(error.answer.get("Item"))

    def page(self, prefix: str, start: Mapping[str, Any] | None) -> Operation[tuple[list[str], Any]]:
        """One page of a folder's keys, unsorted for a top-level folder, and where the next begins."""
        names = {"#exp": "exp"}
        values: dict[str, Any] = {":prefix": {"S": prefix}, ":now": {"N": repr(self._clock.time())}}
        alive = "(attribute_not_exists(#exp) OR #exp > :now)"
        params: dict[str, Any] = {
            "TableName": self._table,
            "ProjectionExpression": "pk, sk",
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": values,
            "ConsistentRead": True,
        }
        deep = prefix.count("/") >= 2
        if deep:
            params |= {"KeyConditionExpression": "pk = :prefix", "FilterExpression": alive}
        else:
            values[":flat"] = {"S": _FLAT}
            params["FilterExpression"] = f"begins_with(pk, :prefix) AND sk = :flat AND {alive}"
        if start:
            params["ExclusiveStartKey"] = start
        answer = yield from self._call("Query" if deep else "Scan", params)
        keys = [from_item_key(item) for item in answer.get("Items", [])]
        if not deep:
            keys = [key for key in keys if key.count("/") == 1]
        return keys, answer.get("LastEvaluatedKey")

    def create_table(self) -> Operation[None]:
        """The table, billed by request, with TTL. Idempotent."""
        kinds = [{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")]
        params = {
            "TableName": self._table,
            "AttributeDefinitions": kinds,
            "KeySchema": [
                {"AttributeName": "pk", "KeyType": "HASH"},
                {"AttributeName": "sk", "KeyType": "RANGE"},
            ],
            "BillingMode": "PAY_PER_REQUEST",
        }
        try:
            yield Call("dynamodb", "CreateTable", params)
        except AwsError as error:
            if error.code != "ResourceInUseException":
                raise
        yield from self._until("ACTIVE")
        about = yield from self._call("DescribeTimeToLive", {"TableName": self._table})
        status = about.get("TimeToLiveDescription", {}).get("TimeToLiveStatus")
        if status not in ("ENABLED", "ENABLING"):
            ttl = {"Enabled": True, "AttributeName": self._ttl}
            yield from self._call(
                "UpdateTimeToLive", {"TableName": self._table, "TimeToLiveSpecification": ttl}
            )

    def delete_table(self) -> Operation[None]:
        """Remove the table and all that is in it. A missing one is no error."""
        try:
            yield from self._call("DeleteTable", {"TableName": self._table})
            yield from self._until("GONE")
        except StoreNotFound:
            return

    def _until(self, status: str) -> Operation[None]:
        waited = 0.0
        while waited < TABLE_WAIT:
            answer = yield from self._call("DescribeTable", {"TableName": self._table})
            if answer["Table"]["TableStatus"] == status:
                return
            yield Pause(TABLE_POLL)
            waited += TABLE_POLL
        raise OperationalError(
            f"the DynamoDB table {self._table!r} is not {status} after {TABLE_WAIT:g} s: "
            "look at it in the AWS console"
        )


class DynamoBackend:
    """``ResultBackend`` on a DynamoDB table. Drive ``operations`` with ``arun`` for asyncio."""

    def __init__(
        self,
        port: Port,
        table: str,
        *,
        url: str | None = None,
        ttl_attribute: str = "ttl",
        max_value: int = MAX_VALUE,
        clock: Clock = SYSTEM_CLOCK,
        group_commit: bool = False,
    ) -> None:
        self._port = port
        self._firsts = FirstWrites(table, port.call, clock) if group_commit else None
        self._max_value = max_value
        self._clock = clock
        self._url = url or f"dynamodb://{table}"
        self.operations = DynamoOperations(table, ttl_attribute, max_value, clock)

    @property
    def capabilities(self) -> BackendCapabilities:
        return BackendCapabilities(max_value=self._max_value, conflict_has_entry=True, batch_read=BATCH)

    @property
    def url(self) -> str:
        return self._url

    def read(self, key: str) -> Entry | None:
        return self._run(self.operations.read(key))

    def read_many(self, keys: Iterable[str]) -> dict[str, Entry]:
        return self._run(self.operations.read_many(keys))

    def write(
        self, key: str, value: bytes, when: Condition = ALWAYS, expires_at: float | None = None
    ) -> Version:
        if self._firsts is None or when != ABSENT:
            return self._run(self.operations.write(key, value, when, expires_at))
        item = self.operations.item(key, value, expires_at)

        def alone() -> None:
            self._run(self.operations.put(key, item, when))

        self._firsts.write(First(item, alone), len(value))
        return Version(item["ver"]["S"])

    def delete(self, key: str, when: Condition = ALWAYS) -> None:
        self._run(self.operations.delete(key, when))

    def keys(self, prefix: str) -> Iterator[str]:
        """See ``ResultBackend.keys``. A top-level folder reads the whole table before the first key."""
        check_folder(prefix)
        pages = self._pages(prefix)
        if prefix.count("/") >= 2:
            return (key for page in pages for key in page)
        return iter(sorted(key for page in pages for key in page))

    def _pages(self, prefix: str) -> Iterator[list[str]]:
        page, start = self._run(self.operations.page(prefix, None))
        yield page
        while start:
            page, start = self._run(self.operations.page(prefix, start))
            yield page

    def create_table(self) -> None:
        """Make the table (billed by request, TTL on) and wait for it. For the CLI and tests."""
        self._run(self.operations.create_table())

    def delete_table(self) -> None:
        """Delete the table and everything in it. For the CLI and tests."""
        self._run(self.operations.delete_table())

    def close(self) -> None:
        self._port.close()

    def _run(self, operation: Operation[T]) -> T:
        return run(self._port, operation, self._clock)
