"""What every serializer must do."""

from __future__ import annotations

import enum
import uuid
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from cloudq.errors import DecodeError, SerializationError


class Colour(enum.Enum):
    """For the tests."""

    RED = "red"


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
]


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
        back = serializer.loads(serializer.dumps({"tuple": (1, 2), "enum": Colour.RED, "data": Point(1, 2)}))

        assert back == {"tuple": [1, 2], "enum": "red", "data": {"x": 1, "y": 2}}

    def test_what_cannot_be_written_is_named_with_its_path(self, serializer: Any) -> None:
        if self.keeps_types:
            with pytest.raises(SerializationError):
                serializer.dumps(lambda: None)
            return
        with pytest.raises(SerializationError, match=r"\$\['user'\]\[1\]"):
            serializer.dumps({"user": [1, object()]})

    def test_a_cycle_is_an_error_not_a_hang(self, serializer: Any) -> None:
        if self.keeps_types:
            pytest.skip("pickle writes cycles")
        cycle: list[Any] = []
        cycle.append(cycle)
        with pytest.raises(SerializationError, match="cycle"):
            serializer.dumps(cycle)

    @pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"{", b"[1,", b"\x00" * 20, b"\xc1"])
    def test_garbage_is_a_decode_error(self, serializer: Any, data: bytes) -> None:
        try:
            serializer.loads(data)
        except DecodeError:
            return
        # some formats read some garbage as a value; none may raise anything else

    def test_it_says_what_it_is(self, serializer: Any) -> None:
        assert serializer.name
        assert "/" in serializer.content_type
        assert isinstance(serializer.safe, bool)
