"""DynamoDB's conditions and updates, as far as the contestants use them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from benchmarks.field.server.refusal import Refusal

Item = dict[str, dict[str, Any]]
_TOKEN: Final = re.compile(r"\s*(<>|<=|>=|[=<>(),+\-]|[#:]?[A-Za-z0-9_.]+)")
_VALIDATION: Final = "com.amazonaws.dynamodb.v20120810#ValidationException"


def plain(value: dict[str, Any]) -> Any:
    """A typed value as one that compares."""
    ((kind, inner),) = value.items()
    return float(inner) if kind == "N" else inner


class Expression:
    """One expression over one item, read by descent."""

    def __init__(self, text: str, params: dict[str, Any], item: Item | None) -> None:
        self.names = params.get("ExpressionAttributeNames") or {}
        self.values = params.get("ExpressionAttributeValues") or {}
        self.item = item or {}
        self.tokens = _TOKEN.findall(text)
        self.at = 0
        if "".join(self.tokens) != re.sub(r"\s+", "", text):
            raise Refusal(_VALIDATION, f"this server does not know the expression {text!r}")

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def next(self, expected: str = "") -> str:
        token = self.peek()
        if not token or (expected and token != expected):
            raise Refusal(_VALIDATION, f"expected {expected or 'more'}, found {token!r}: {self.tokens}")
        self.at += 1
        return token

    def name(self) -> str:
        token = self.next()
        return str(self.names[token]) if token.startswith("#") else token

    def operand(self) -> dict[str, Any] | None:
        if self.peek().startswith(":"):
            return dict(self.values[self.next()])
        return self.item.get(self.name())

    # --- conditions -------------------------------------------------------------------------------

    def condition(self) -> bool:
        """``a OR b``"""
        found = self._all()
        while self.peek().upper() == "OR":
            self.next()
            found = self._all() or found
        return found

    def _all(self) -> bool:
        found = self._one()
        while self.peek().upper() == "AND":
            self.next()
            found = self._one() and found
        return found

    def _one(self) -> bool:
        token = self.peek()
        if token.upper() == "NOT":
            self.next()
            return not self._one()
        if token == "(":
            self.next()
            found = self.condition()
            self.next(")")
            return found
        if token in ("attribute_exists", "attribute_not_exists"):
            self.next()
            self.next("(")
            there = self.name() in self.item
            self.next(")")
            return there == (token == "attribute_exists")
        if token in ("begins_with", "contains"):
            return self._text(self.next())
        return self._compared()

    def _text(self, function: str) -> bool:
        self.next("(")
        left = self.operand()
        self.next(",")
        right = self.operand()
        self.next(")")
        if left is None or right is None:
            return False
        whole, part = plain(left), plain(right)
        return whole.startswith(part) if function == "begins_with" else part in whole

    def _compared(self) -> bool:
        left, sign, right = self.operand(), self.next(), self.operand()
        if left is None or right is None:
            return False
        a, b = plain(left), plain(right)
        compare: dict[str, Callable[[], bool]] = {
            "=": lambda: a == b,
            "<>": lambda: a != b,
            "<": lambda: a < b,
            "<=": lambda: a <= b,
            ">": lambda: a > b,
            ">=": lambda: a >= b,
        }
        return compare[sign]()

    # --- updates ----------------------------------------------------------------------------------

    def update(self) -> Item:
        """The item after ``SET ... ADD ... REMOVE ...``."""
        new = dict(self.item)
        while self.peek():
            verb = self.next().upper()
            while True:
                self._clause(verb, new)
                if self.peek() != ",":
                    break
                self.next()
        return new

    def _clause(self, verb: str, new: Item) -> None:
        name = self.name()
        if verb == "SET":
            self.next("=")
            new[name] = self._sum()
        elif verb == "REMOVE":
            new.pop(name, None)
        elif verb == "ADD":
            new[name] = _added(self.item.get(name), self.operand() or {})
        else:
            raise Refusal(_VALIDATION, f"this server does not know {verb} in an update")

    def _sum(self) -> dict[str, Any]:
        found = self._term()
        while self.peek() in ("+", "-"):
            sign = 1 if self.next() == "+" else -1
            found = {"N": _number(float(found["N"]) + sign * float(self._term()["N"]))}
        return found

    def _term(self) -> dict[str, Any]:
        if self.peek() == "if_not_exists":
            self.next()
            self.next("(")
            found = self.item.get(self.name())
            self.next(",")
            other = self.operand()
            self.next(")")
            found = found or other
        else:
            found = self.operand()
        if found is None:
            raise Refusal(_VALIDATION, "the update uses an attribute that is not there")
        return found


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)


def _added(old: dict[str, Any] | None, more: dict[str, Any]) -> dict[str, Any]:
    ((kind, inner),) = more.items()
    if kind == "N":
        return {"N": _number(float((old or {"N": "0"})["N"]) + float(inner))}
    return {kind: sorted({*(old or {kind: []})[kind], *inner})}
