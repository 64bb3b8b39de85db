"""Tagged values: what is rare comes back, or is refused by name when it is written."""

import enum
import uuid
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from unittest.mock import MagicMock

import pytest

from cloudq.errors import DecodeError, SerializationError
from cloudq.serializers import tagged
from cloudq.serializers.json import JsonSerializer


def there_and_back(value: Any) -> Any:
    json = JsonSerializer()
    return json.loads(json.dumps(value))


class Text(str):
    __slots__ = ()


class Word(enum.StrEnum):
    A = "a"


class Ids(uuid.UUID):
    pass


class Moment(datetime):
    pass


class Hour(time):
    pass


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Text("x"), "x"),
        (Word.A, "a"),
        ({Text("k"): 1}, {"k": 1}),
        ({Word.A: 1}, {"a": 1}),
        (Ids(int=5), uuid.UUID(int=5)),
        (Moment(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)),
        (Hour(5, 30), time(5, 30)),
        (bytearray(b"x"), b"x"),
        (memoryview(b"abcd")[::2], b"ac"),
        (frozenset({1}), {1}),
    ],
)
def test_a_subclass_is_written_as_its_base(value: Any, plain: Any) -> None:
    back = there_and_back(value)

    assert back == plain
    assert type(back) is type(plain)


def test_keys_that_are_text_stay_keys_for_other_languages() -> None:
    assert tagged.to_plain({Word.A: 1, Text("b"): 2}) == {"a": 1, "b": 2}


def test_kombus_hook_is_asked() -> None:
    class Money:
        def __json__(self) -> Any:
            return {"amount": Decimal(1)}

    assert there_and_back([Money()]) == [{"amount": Decimal(1)}]


def test_a_lazy_translation_is_written_as_its_text() -> None:
    promise = type("Promise", (), {"__module__": "django.utils.functional"})
    lazy = type("__proxy__", (promise,), {"__str__": lambda self: "Hallo"})

    assert there_and_back([lazy()]) == ["Hallo"]


def test_a_model_that_gives_itself_does_not_recurse_for_ever() -> None:
    class Mirror:
        def model_dump(self) -> Any:
            return self

    with pytest.raises(SerializationError, match="cycle"):
        tagged.to_plain(Mirror())


def test_an_object_that_answers_to_any_name_is_refused_by_its_own() -> None:
    with pytest.raises(
        SerializationError, match=r"a unittest\.mock\.MagicMock cannot be written \(at \$\[0\]\)"
    ):
        tagged.to_plain([MagicMock()])


def test_the_path_of_a_cycle_is_not_endless() -> None:
    cycle: dict[str, Any] = {}
    cycle["a rather long name of a key"] = cycle
    with pytest.raises(SerializationError) as caught:
        tagged.to_plain(cycle)

    assert len(str(caught.value)) < 300


def test_the_largest_integer_that_is_written_is_read() -> None:
    largest = 10**tagged.MAX_DIGITS - 1

    assert there_and_back([largest, -largest]) == [largest, -largest]


@pytest.mark.parametrize(
    "plain",
    [
        {"__type__": "dict", "__value__": {"ab": 1}},
        {"__type__": "dict", "__value__": ["ab"]},
        {"__type__": "dict", "__value__": [[1]]},
        {"__type__": "dict", "__value__": [[{}, 1]]},
        {"__type__": "set", "__value__": "abc"},
        {"__type__": "set", "__value__": [{}]},
        {"__type__": "int", "__value__": 5},
        {"__type__": "float", "__value__": True},
        {"__type__": "timedelta", "__value__": [1e308]},
        {"__type__": "bytes", "__value__": 5},
        {"__type__": "decimal"},
        {"__type__": ["set"], "__value__": []},
    ],
)
def test_a_tag_that_holds_something_else_is_refused(plain: Any) -> None:
    with pytest.raises(DecodeError, match="tagged"):
        tagged.from_plain([plain])


@pytest.mark.parametrize("text", ['[{"__type__": 1}]', '["\\u005f"]', "[" * 101 + "]" * 101])
def test_text_that_may_hold_tags_is_walked(text: str) -> None:
    assert tagged.may_be_tagged(text)
    assert tagged.may_be_tagged(text.encode())


def test_plain_text_is_not_walked() -> None:
    text = '{"task": "t", "args": [1, [2]], "__type": "\\n"}'

    assert not tagged.may_be_tagged(text)
    assert not tagged.may_be_tagged(text.encode())


def test_durations_of_any_length_come_back() -> None:
    for value in (timedelta.max, timedelta.min, timedelta(microseconds=-1)):
        assert there_and_back(value) == value
