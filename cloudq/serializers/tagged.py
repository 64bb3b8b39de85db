"""Values beyond JSON as plain data: ``{"__type__": "datetime", "__value__": "..."}``.

The spelling is kombu's, so that Celery's JSON reads. What is accepted comes back equal, but for
tuples (lists, except as keys and in sets), enums (their value), dataclasses and models (mappings),
and times in a named zone (their UTC offset is kept, the name is not).
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import enum
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final, TypeAlias

from cloudq.errors import DecodeError, SerializationError

TYPE: Final = "__type__"
VALUE: Final = "__value__"
#: Levels of nesting in a value; deeper ones are refused, written or read.
MAX_DEPTH: Final = 100
#: Longest integer, in digits: parsing is quadratic, and Python's own limit (4,300) is near.
MAX_DIGITS: Final = 4000

#: Where a value sits: (where its parent sits, how the step is spelled, the step). Text only on error.
_Place: TypeAlias = tuple[Any, str, Any]

_PLAIN: Final = frozenset({str, int, float, bool, type(None)})
_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1
_TOO_LARGE: Final = 10**MAX_DIGITS


def to_plain(value: Any, path: str = "$") -> Any:
    """``value`` as dicts, lists, text, numbers, booleans and None.

    Raises SerializationError with the path, from ``path`` on, of what cannot be written.
    """
    return _plain(value, (None, "%s", path), 0)


def _plain(value: Any, place: _Place, depth: int) -> Any:
    kind = type(value)
    if kind is str:
        return value if value.isascii() else _text(value, place)
    if kind is int:
        return value if _INT_MIN <= value <= _INT_MAX else {TYPE: "int", VALUE: _digits(value, place)}
    if kind is bool or value is None:
        return value
    if kind is float:
        return value if math.isfinite(value) else {TYPE: "float", VALUE: repr(value)}
    if depth >= MAX_DEPTH:
        raise _refused(f"nested deeper than {MAX_DEPTH} levels, or a cycle", place)
    if kind is list or kind is tuple:
        return [_plain(each, (place, "[%r]", n), depth + 1) for n, each in enumerate(value)]
    if kind is dict:
        return _mapping(value, place, depth)
    writer = _WRITERS.get(kind)
    if writer is not None:
        return {TYPE: writer[0], VALUE: writer[1](value)}
    return _other(value, place, depth)


def _refused(message: str, place: _Place) -> SerializationError:
    steps: list[str] = []
    at: _Place | None = place
    while at is not None:
        steps.append(at[1] % (at[2],))
        at = at[0]
    path = "".join(reversed(steps))
    return SerializationError(message, path if len(path) <= 200 else f"{path[:200]}...")


def _text(value: str, place: _Place) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _refused("text with half a surrogate pair cannot be written", place) from None
    return value


def _digits(value: int, place: _Place) -> str:
    if abs(value) >= _TOO_LARGE:
        raise _refused(f"an integer of more than {MAX_DIGITS} digits cannot be written", place)
    return str(value)


def _mapping(value: Mapping[Any, Any], place: _Place, depth: int) -> Any:
    if TYPE in value or not all(isinstance(key, str) for key in value):
        pairs = [
            [_hashable(key, (place, "%s", ".keys()"), depth), _plain(each, (place, "[%r]", key), depth + 1)]
            for key, each in value.items()
        ]
        return {TYPE: "dict", VALUE: pairs}
    return {
        key if type(key) is str and key.isascii() else _text(str.__str__(key), place): _plain(
            each, (place, "[%r]", key), depth + 1
        )
        for key, each in value.items()
    }


def _hashable(value: Any, place: _Place, depth: int) -> Any:
    """A key, or a member of a set: what it is written as must be hashable when it is read."""
    plain = _plain(value, place, depth + 1)
    if not _reads_hashable(plain):
        raise _refused(f"a {_name(value)} would come back as a mapping, which can be no key", place)
    return plain


def _reads_hashable(plain: Any) -> bool:
    if type(plain) is list:
        return all(map(_reads_hashable, plain))
    return type(plain) is not dict or plain.get(TYPE, "dict") != "dict"


def _other(value: Any, place: _Place, depth: int) -> Any:
    """Kinds that are rare, or told by their bases."""
    kind = type(value)
    if isinstance(value, enum.Enum):
        return _plain(value.value, (place, ".%s", "value"), depth + 1)
    if isinstance(value, set | frozenset):
        # in a settled order where there is one, so that equal values are written alike
        items = sorted(value, key=repr)
        return {
            TYPE: "set",
            VALUE: [_hashable(each, (place, "{%r}", n), depth) for n, each in enumerate(items)],
        }
    names = _field_names(kind)
    if names is not None:
        return {name: _plain(getattr(value, name), (place, ".%s", name), depth + 1) for name in names}
    # looked up on the class: an instance may answer to any name (a mock, a proxy)
    for method in ("model_dump", "__json__"):  # pydantic; kombu's own hook
        if callable(getattr(kind, method, None)):
            return _plain(getattr(value, method)(), place, depth + 1)
    for base, convert in _BASES:
        if isinstance(value, base):
            return _plain(convert(value), place, depth + 1)
    if any(
        f"{base.__module__}.{base.__name__}" == "django.utils.functional.Promise" for base in kind.__mro__
    ):
        return _plain(str(value), place, depth + 1)  # a lazy translation, which kombu writes as its text
    raise _refused(f"a {_name(value)} cannot be written", place)


def _field_names(kind: type) -> Sequence[str] | None:
    if dataclasses.is_dataclass(kind):
        return [each.name for each in dataclasses.fields(kind)]
    names: Sequence[str] | None = getattr(kind, "__struct_fields__", None)  # msgspec.Struct
    return names


def _name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _seconds(value: timedelta) -> list[int]:
    return [value.days, value.seconds, value.microseconds]


def _b64(value: bytes | bytearray | memoryview) -> str:
    return base64.b64encode(bytes(value)).decode("ascii")  # bytes(): a view may have gaps


_WRITERS: Final[dict[type, tuple[str, Callable[[Any], Any]]]] = {
    datetime: ("datetime", datetime.isoformat),
    date: ("date", date.isoformat),
    time: ("time", time.isoformat),
    timedelta: ("timedelta", _seconds),
    uuid.UUID: ("uuid", lambda value: {"hex": value.hex, "version": value.version}),
    Decimal: ("decimal", str),
    bytes: ("base64", _b64),
    bytearray: ("base64", _b64),
    memoryview: ("base64", _b64),
}

#: Subclasses of the plain kinds (NamedTuple, defaultdict, a pandas Timestamp ...), as their base.
_BASES: Final[tuple[tuple[type, Callable[[Any], Any]], ...]] = (
    (bool, bool),
    (int, int.__int__),
    (float, float.__float__),
    (str, str.__str__),
    (tuple, list),
    (list, list),
    (Mapping, dict),
    (datetime, lambda v: datetime.combine(v.date(), v.timetz())),
    (date, lambda v: date(v.year, v.month, v.day)),
    (time, lambda v: time(v.hour, v.minute, v.second, v.microsecond, v.tzinfo, fold=v.fold)),
    (uuid.UUID, lambda v: uuid.UUID(int=v.int)),
    (timedelta, lambda v: timedelta(v.days, v.seconds, v.microseconds)),
    (Decimal, Decimal),
    (bytes, bytes),
)


#: What tells that JSON must be walked: a tag, the escapes it may be spelled with, levels of nesting.
_MARKS: Final = ("__type__", "\\u00", "[", "{")
_BYTE_MARKS: Final = tuple(mark.encode() for mark in _MARKS)


def may_be_tagged(text: str | bytes) -> bool:
    """False when JSON ``text`` surely holds no tag and is not nested too deeply, so need not be walked."""
    marks: Any = _MARKS if type(text) is str else _BYTE_MARKS
    tag, escape, bracket, brace = marks
    if tag in text or escape in text:
        return True
    # every level is opened and closed: what is short needs no counting
    return len(text) > 2 * MAX_DEPTH and text.count(bracket) + text.count(brace) > MAX_DEPTH


def from_plain(value: Any) -> Any:
    """The value again. Raises DecodeError for a tag that is unknown or holds nonsense."""
    return _value(value, 0)


def _value(value: Any, depth: int) -> Any:
    if type(value) in _PLAIN:
        return value
    if depth >= 2 * MAX_DEPTH:  # a tagged dict takes two levels for one
        raise DecodeError(f"nested deeper than {MAX_DEPTH} levels")
    if type(value) is list:
        return [_value(each, depth + 1) for each in value]
    if type(value) is not dict:
        return value
    tag = value.get(TYPE)
    if tag is None:
        return {key: _value(each, depth + 1) for key, each in value.items()}
    reader = _READERS.get(tag) if isinstance(tag, str) else None
    if reader is None or VALUE not in value:
        raise DecodeError(f"a value is tagged {str(tag)[:80]!r}, which this release does not know")
    try:
        return reader(value[VALUE], depth + 1)
    except (ValueError, TypeError, LookupError, ArithmeticError, binascii.Error) as error:
        raise DecodeError(f"a value tagged {tag!r} cannot be read: {error}") from error


def _is_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text was expected, not {type(value).__name__}")
    return value


def _is_list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"an array was expected, not {type(value).__name__}")
    return value


def _read_uuid(value: Any, depth: int) -> uuid.UUID:
    return uuid.UUID(_is_text(value["hex"] if isinstance(value, dict) else value))


def _read_dict(value: Any, depth: int) -> dict[Any, Any]:
    pairs = [_is_list(pair) for pair in _is_list(value)]
    return {_frozen(_value(key, depth + 1)): _value(each, depth + 1) for key, each in pairs}


def _read_set(value: Any, depth: int) -> set[Any]:
    return {_frozen(_value(each, depth + 1)) for each in _is_list(value)}


def _frozen(value: Any) -> Any:
    """Lists as tuples and sets as frozensets: what can be a key was one of those."""
    if isinstance(value, list):
        return tuple(map(_frozen, value))
    return frozenset(value) if isinstance(value, set) else value


def _read_int(value: Any, depth: int) -> int:
    if len(_is_text(value)) > MAX_DIGITS + 1:  # and a sign
        raise ValueError(f"an integer of more than {MAX_DIGITS} digits")
    return int(value)


_READERS: Final[dict[str, Callable[[Any, int], Any]]] = {
    "datetime": lambda value, depth: datetime.fromisoformat(value),
    "date": lambda value, depth: datetime.fromisoformat(value).date(),
    "time": lambda value, depth: time.fromisoformat(value),
    "timedelta": lambda value, depth: timedelta(*_is_list(value)),
    "uuid": _read_uuid,
    "decimal": lambda value, depth: Decimal(_is_text(value)),
    "base64": lambda value, depth: base64.b64decode(_is_text(value), validate=True),
    "bytes": lambda value, depth: _is_text(value).encode(),  # kombu's spelling of bytes that are text
    "set": _read_set,
    "dict": _read_dict,
    "int": _read_int,
    "float": lambda value, depth: float(_is_text(value)),
}
