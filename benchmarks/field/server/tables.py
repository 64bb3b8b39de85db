"""DynamoDB: tables in memory, with conditions, and the request units each call would cost."""

from __future__ import annotations

import math
import re
from typing import Any, Final

from benchmarks.field.server.expressions import Expression, Item
from benchmarks.field.server.refusal import Refusal

_SPACE: Final = "com.amazonaws.dynamodb.v20120810#"
#: One statement of BatchExecuteStatement: an insert that fails when the key is there.
_INSERT: Final = re.compile(r"""INSERT\s+INTO\s+"?([\w.-]+)"?\s+VALUE\s*\{(.*)\}\s*$""", re.S | re.I)

Answer = dict[str, Any]
Key = tuple[Any, ...]


def size_of(item: Item | None) -> int:
    """Bytes, near enough to DynamoDB's own count for its price steps of 1 and 4 KB."""
    total = 0
    for name, value in (item or {}).items():
        ((kind, inner),) = value.items()
        total += len(name) + (len(inner) * 3 // 4 if kind == "B" else len(str(inner)))
    return total


class Table:
    """Items by key."""

    def __init__(self, keys: list[str]) -> None:
        self.keys = keys
        self.items: dict[Key, Item] = {}

    def key(self, of: Item) -> Key:
        return tuple(next(iter(of[name].values())) for name in self.keys)


class Tables:
    """The operations of DynamoDB that the contestants call. ``units``: of the last call, (read, write)."""

    def __init__(self) -> None:
        self.tables: dict[str, Table] = {}
        self.reads = 0.0
        self.writes = 0.0

    def _table(self, name: str) -> Table:
        try:
            return self.tables[name.rpartition("/")[2]]
        except KeyError:
            raise Refusal(_SPACE + "ResourceNotFoundException", f"no table {name}") from None

    def _read(self, item: Item | None, params: Answer) -> None:
        units = max(1, math.ceil(size_of(item) / 4096))
        self.reads += units if params.get("ConsistentRead") else units / 2

    def _wrote(self, *items: Item | None) -> None:
        self.writes += max(1, math.ceil(max(map(size_of, items)) / 1024))

    def _check(self, params: Answer, old: Item | None) -> None:
        text = params.get("ConditionExpression")
        if text and not Expression(text, params, old).condition():
            self._wrote(old)
            more: dict[str, Any] = (
                {"Item": old} if old and params.get("ReturnValuesOnConditionCheckFailure") else {}
            )
            raise Refusal(
                _SPACE + "ConditionalCheckFailedException", "The conditional request failed", **more
            )

    def GetItem(self, params: Answer) -> Answer:  # noqa: N802
        table = self._table(params["TableName"])
        item = table.items.get(table.key(params["Key"]))
        self._read(item, params)
        return {"Item": item} if item else {}

    def PutItem(self, params: Answer) -> Answer:  # noqa: N802
        table = self._table(params["TableName"])
        item = params["Item"]
        key = table.key(item)
        old = table.items.get(key)
        self._check(params, old)
        table.items[key] = item
        self._wrote(old, item)
        return {"Attributes": old} if old and params.get("ReturnValues") == "ALL_OLD" else {}

    def UpdateItem(self, params: Answer) -> Answer:  # noqa: N802
        table = self._table(params["TableName"])
        key = table.key(params["Key"])
        old = table.items.get(key)
        self._check(params, old)
        new = Expression(params.get("UpdateExpression") or "", params, old).update() | params["Key"]
        table.items[key] = new
        self._wrote(old, new)
        return _returned(params.get("ReturnValues") or "NONE", old or {}, new)

    def DeleteItem(self, params: Answer) -> Answer:  # noqa: N802
        table = self._table(params["TableName"])
        key = table.key(params["Key"])
        old = table.items.get(key)
        self._check(params, old)
        table.items.pop(key, None)
        self._wrote(old)
        return {"Attributes": old} if old and params.get("ReturnValues") == "ALL_OLD" else {}

    def BatchGetItem(self, params: Answer) -> Answer:  # noqa: N802
        found: dict[str, list[Item]] = {}
        for name, request in params["RequestItems"].items():
            table, rows = self._table(name), found.setdefault(name, [])
            for key in request["Keys"]:
                item = table.items.get(table.key(key))
                self._read(item, request)
                if item:
                    rows.append(item)
        return {"Responses": found, "UnprocessedKeys": {}}

    def BatchWriteItem(self, params: Answer) -> Answer:  # noqa: N802
        for name, requests in params["RequestItems"].items():
            for request in requests:
                if "PutRequest" in request:
                    self.PutItem({"TableName": name, "Item": request["PutRequest"]["Item"]})
                else:
                    self.DeleteItem({"TableName": name, "Key": request["DeleteRequest"]["Key"]})
        return {"UnprocessedItems": {}}

    def BatchExecuteStatement(self, params: Answer) -> Answer:  # noqa: N802
        return {"Responses": [self._insert(each) for each in params["Statements"]]}

    def _insert(self, statement: Answer) -> Answer:
        match = _INSERT.match(statement["Statement"].strip())
        if match is None:
            text = f"this server only knows INSERT INTO, not {statement['Statement']!r}"
            return {"Error": {"Code": "ValidationError", "Message": text}}
        name, fields = match.groups()
        names = re.findall(r"""['"]([^'"]+)['"]\s*:\s*\?""", fields)
        item: Item = dict(zip(names, statement["Parameters"], strict=True))
        table = self._table(name)
        key = table.key(item)
        if key in table.items:
            self._wrote(table.items[key])
            return {"Error": {"Code": "DuplicateItem", "Message": "the key is there"}, "TableName": name}
        table.items[key] = item
        self._wrote(item)
        return {"TableName": name}

    def Query(self, params: Answer) -> Answer:  # noqa: N802
        return self._found(params, params["KeyConditionExpression"])

    def Scan(self, params: Answer) -> Answer:  # noqa: N802
        return self._found(params, None)

    def _found(self, params: Answer, keys: str | None) -> Answer:
        table = self._table(params["TableName"])
        rows, read = [], 0
        for key in sorted(table.items):
            item = table.items[key]
            if keys and not Expression(keys, params, item).condition():
                continue
            read += size_of(item)
            wanted = params.get("FilterExpression")
            if not wanted or Expression(wanted, params, item).condition():
                rows.append(item)
        units = max(1, math.ceil(read / 4096))
        self.reads += units if params.get("ConsistentRead") else units / 2
        return {"Items": rows, "Count": len(rows), "ScannedCount": len(rows)}

    def CreateTable(self, params: Answer) -> Answer:  # noqa: N802
        keys = [each["AttributeName"] for each in params["KeySchema"]]
        self.tables.setdefault(params["TableName"], Table(keys))
        return self.DescribeTable(params)

    def DescribeTable(self, params: Answer) -> Answer:  # noqa: N802
        self._table(params["TableName"])
        return {"Table": {"TableName": params["TableName"], "TableStatus": "ACTIVE"}}

    def DescribeTimeToLive(self, params: Answer) -> Answer:  # noqa: N802
        return {"TimeToLiveDescription": {"TimeToLiveStatus": "ENABLED", "AttributeName": "ttl"}}

    def UpdateTimeToLive(self, params: Answer) -> Answer:  # noqa: N802
        return {"TimeToLiveSpecification": params["TimeToLiveSpecification"]}


def _returned(wanted: str, old: Item, new: Item) -> Answer:
    changed = [name for name in {*old, *new} if old.get(name) != new.get(name)]
    shown = {
        "ALL_NEW": new,
        "ALL_OLD": old,
        "UPDATED_NEW": {name: new[name] for name in changed if name in new},
        "UPDATED_OLD": {name: old[name] for name in changed if name in old},
    }.get(wanted)
    return {"Attributes": shown} if shown else {}
