"""What every serializer must do."""

from __future__ import annotations

import enum
import uuid
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple
from unittest.mock import Mock

import msgspec
import pytest

from cloudq.errors import DecodeError, SerializationError


class Colour(enum.Enum):
    """For the tests."""

    RED = "red"


@dataclass(frozen=True)
class Frozen:
    """Could be a key, but comes back as a mapping, which cannot."""

    x: int


@dataclass
class Point:
    """For the tests."""

    x: int
    y: int


VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    2**53,
    2**63,
    2**64,
    -(2**70),
    1.5,
    float("inf"),
    "",
    "ü€𝄞\x00\x7f\ufffe\uffff",
    [],
    {},
    [1, [2, [3]]],
    {"a": {"b": [None]}},
    {1: "one"},
    {"__type__": "mine", "x": 1},
    {"__type__": "datetime", "__value__": "no time"},
    {None: 1, True: 2, "x": 3},
    datetime(2026, 11, 21, 12, 30, 1, 123456, tzinfo=UTC),
    datetime(2026, 11, 21, 12, 30),
    datetime(2026, 11, 21, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    date(2026, 11, 21),
    time(12, 30, 1),
    timedelta(days=-1, seconds=3, microseconds=7),
    uuid.UUID("9afb2773-7027-4344-a72f-3c5705e0005d"),
    Decimal("1.10"),
    Decimal("-0"),
    b"\x00\xff",
    {1, 2, 3},
    {"set": {"a"}},
    {(1, "x"): 1, b"k": 2, 1.5: 3},
    {(1, 2), (3, (4,))},
    {frozenset({1}), frozenset()},
    {date(2026, 11, 21): {uuid.UUID(int=1): {Decimal(1)}}},
    "yes: no, ~ *a &b !c 1:59 0x1f 2026-11-21",
    ["1", "1.0", "true", "null", "2026-11-21", "~", "=", "1:59:59"],
    10**3999,
]


def nested(levels: int, wrap: Any) -> Any:
    """``wrap`` around itself."""
    value: Any = 1
    for _ in range(levels):
        value = wrap(value)
    return value


#: Ways to go one level down, among them those that take several levels when written.
WRAPS: list[Any] = [lambda value: [value], lambda value: {"x": value}, lambda value: {1: value}]


class Model:
    """Like a pydantic model: it gives itself as plain data."""

    def model_dump(self) -> Any:
        return {"x": Colour.RED}


class Struct(msgspec.Struct):
    """For the tests."""

    x: Any


class Pair(NamedTuple):
    """For the tests."""

    x: Any
    y: Any


class Nothing:
    """Cannot be written, by pickle neither."""

    def __reduce__(self) -> Any:
        raise TypeError("not me")


class SerializerContract:
    """Give a fixture ``serializer``."""

    #: Tuples, enums and dataclasses come back as themselves (pickle), not as plain data.
    keeps_types = False

    @pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:40])
    def test_a_value_comes_back_equal(self, serializer: Any, value: Any) -> None:
        back = serializer.loads(serializer.dumps(value))

        assert back == value
        assert type(back) is type(value)

    def test_not_a_number_comes_back(self, serializer: Any) -> None:
        back = serializer.loads(serializer.dumps([float("nan")]))[0]

        assert back != back

    def test_structures_become_plain_data(self, serializer: Any) -> None:
        if self.keeps_types:
            assert serializer.loads(serializer.dumps((1, Colour.RED))) == (1, Colour.RED)
            return
        value = {
            "tuple": (1, 2),
            "enum": Colour.RED,
            "data": Point(1, 2),
            "model": Model(),
            "struct": Struct(Pair(1, 2)),
            "default": defaultdict(list, x=[1]),
        }

        assert serializer.loads(serializer.dumps(value)) == {
            "tuple": [1, 2],
            "enum": "red",
            "data": {"x": 1, "y": 2},
            "model": {"x": "red"},
            "struct": {"x": [1, 2]},
            "default": {"x": [1]},
        }

    @pytest.mark.parametrize(
        ("value", "path"),
        [
            ({"user": [1, Nothing()]}, r"\$\['user'\]\[1\]"),
            ([{"user": Point(1, Nothing())}], r"\$\[0\]\['user'\]\.y"),  # type: ignore[arg-type]
            ([Struct(Nothing())], r"\$\[0\]\.x"),
            ({Nothing(): 1}, r"\$\.keys\(\)"),
        ],
    )
    def test_what_cannot_be_written_is_named_with_its_path(
        self, serializer: Any, value: Any, path: str
    ) -> None:
        with pytest.raises(SerializationError, match=None if self.keeps_types else path):
            serializer.dumps(value)

    @pytest.mark.parametrize(
        "value", ["\ud800", {"\udfff": 1}, 10**4000, {Frozen(1): 1}, {Frozen(1)}, Mock()]
    )
    def test_what_could_not_be_read_again_is_not_written(self, serializer: Any, value: Any) -> None:
        if self.keeps_types:
            pytest.skip("pickle keeps them")
        with pytest.raises(SerializationError):
            serializer.dumps(value)

    @pytest.mark.parametrize("wrap", WRAPS)
    def test_a_hundred_levels_are_written_and_read_and_no_more(self, serializer: Any, wrap: Any) -> None:
        deep = nested(100, wrap)

        assert serializer.loads(serializer.dumps(deep)) == deep
        if not self.keeps_types:
            with pytest.raises(SerializationError, match="100 levels"):
                serializer.dumps(wrap(deep))

    def test_a_cycle_is_an_error_not_a_hang(self, serializer: Any) -> None:
        if self.keeps_types:
            pytest.skip("pickle writes cycles")
        cycle: list[Any] = []
        cycle.append(cycle)
        with pytest.raises(SerializationError, match="cycle"):
            serializer.dumps(cycle)

    @pytest.mark.parametrize(
        "data", [b"", b"\xff\xfe", b"{", b"[1,", b"\x00" * 20, b"\xc1", b"!!bool x", b"\xd4\x05\x01"]
    )
    def test_garbage_is_a_decode_error(self, serializer: Any, data: bytes) -> None:
        try:
            serializer.loads(data)
        except DecodeError:
            return
        # some formats read some garbage as a value; none may raise anything else

    def test_what_is_cut_short_is_a_decode_error(self, serializer: Any) -> None:
        data = serializer.dumps([{"user": "a" * 50, "when": datetime(2026, 11, 21)}] * 3)
        for end in range(len(data) - 1):
            try:
                serializer.loads(data[:end])
            except DecodeError:
                continue

    def test_it_says_what_it_is(self, serializer: Any) -> None:
        assert serializer.name
        assert "/" in serializer.content_type
        assert isinstance(serializer.safe, bool)
