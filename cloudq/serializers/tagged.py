"""Values beyond JSON as plain data: ``{"__type__": "datetime", "__value__": "..."}``.

The spelling is kombu's, so that Celery's JSON reads. Every user value that is accepted comes back
equal, but for tuples (lists), enums (their value) and dataclasses (mappings).
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import enum
import math
import uuid
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from cloudq.errors import DecodeError, SerializationError

TYPE: Final = "__type__"
VALUE: Final = "__value__"
#: Levels of nesting in a value; deeper ones are refused, written or read.
MAX_DEPTH: Final = 100

_PLAIN: Final = frozenset({str, int, float, bool, type(None)})
_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1


def to_plain(value: Any) -> Any:
    """``value`` as dicts, lists, text, numbers, booleans and None.

    Raises SerializationError with the path of what cannot be written.
    """
    return _plain(value, "$", 0)


def _plain(value: Any, path: str, depth: int) -> Any:
    kind = type(value)
    if kind is str:
        return _text(value, path)
    if kind is int:
        return value if _INT_MIN <= value <= _INT_MAX else {TYPE: "int", VALUE: str(value)}
    if kind is bool or value is None:
        return value
    if kind is float:
        return value if math.isfinite(value) else {TYPE: "float", VALUE: repr(value)}
    if depth >= MAX_DEPTH:
        raise SerializationError(f"nested deeper than {MAX_DEPTH} levels, or a cycle", path[:80])
    if kind is list or kind is tuple:
        return [_plain(each, f"{path}[{n}]", depth + 1) for n, each in enumerate(value)]
    if kind is dict:
        return _mapping(value, path, depth)
    writer = _WRITERS.get(kind)
    if writer is not None:
        return {TYPE: writer[0], VALUE: writer[1](value)}
    return _other(value, path, depth)


def _text(value: str, path: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise SerializationError("text with half a surrogate pair cannot be written", path) from None
    return value


def _mapping(value: Mapping[Any, Any], path: str, depth: int) -> Any:
    if TYPE in value or not all(type(key) is str for key in value):
        pairs = [
            [_plain(key, f"{path}.keys()", depth + 1), _plain(each, f"{path}[{key!r}]", depth + 1)]
            for key, each in value.items()
        ]
        return {TYPE: "dict", VALUE: pairs}
    return {_text(key, path): _plain(each, f"{path}[{key!r}]", depth + 1) for key, each in value.items()}


def _other(value: Any, path: str, depth: int) -> Any:
    """Kinds that are rare, or told by their bases."""
    if isinstance(value, enum.Enum):
        return _plain(value.value, f"{path}.value", depth + 1)
    if isinstance(value, set | frozenset):
        # in a settled order where there is one, so that equal values are written alike
        items = sorted(value, key=repr)
        return {
            TYPE: "set",
            VALUE: [_plain(each, f"{path}{{{n}}}", depth + 1) for n, each in enumerate(items)],
        }
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
        return {name: _plain(each, f"{path}.{name}", depth + 1) for name, each in fields.items()}
    dump = getattr(value, "model_dump", None)  # pydantic, without importing it
    if callable(dump) and not isinstance(value, type):
        return _plain(dump(), path, depth + 1)
    names = getattr(value, "__struct_fields__", None)  # msgspec.Struct
    if names is not None and not isinstance(value, type):
        return {name: _plain(getattr(value, name), f"{path}.{name}", depth + 1) for name in names}
    for base, convert in _BASES:
        if isinstance(value, base):
            return _plain(convert(value), path, depth + 1)
    raise SerializationError(f"a {type(value).__module__}.{type(value).__qualname__} cannot be written", path)


def _seconds(value: timedelta) -> list[int]:
    return [value.days, value.seconds, value.microseconds]


def _b64(value: bytes | bytearray | memoryview) -> str:
    return base64.b64encode(value).decode("ascii")


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
    (timedelta, lambda v: timedelta(v.days, v.seconds, v.microseconds)),
    (Decimal, Decimal),
    (bytes, bytes),
)


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
        raise DecodeError(f"a value is tagged {tag!r}, which this release does not know")
    try:
        return reader(value[VALUE], depth + 1)
    except (ValueError, TypeError, KeyError, ArithmeticError, InvalidOperation, binascii.Error) as error:
        raise DecodeError(f"a value tagged {tag!r} cannot be read: {error}") from error


def _read_uuid(value: Any, depth: int) -> uuid.UUID:
    if isinstance(value, str):
        return uuid.UUID(value)
    return uuid.UUID(hex=value["hex"])


def _read_dict(value: Any, depth: int) -> dict[Any, Any]:
    return {_value(key, depth + 1): _value(each, depth + 1) for key, each in value}


def _read_bytes(value: Any, depth: int) -> bytes:
    return base64.b64decode(value, validate=True)


def _read_int(value: Any, depth: int) -> int:
    if len(value) > 4000:  # quadratic to parse, and Python's own limit is near
        raise ValueError("an integer of more than 4,000 digits")
    return int(value)


_READERS: Final[dict[str, Callable[[Any, int], Any]]] = {
    "datetime": lambda value, depth: datetime.fromisoformat(value),
    "date": lambda value, depth: datetime.fromisoformat(value).date(),
    "time": lambda value, depth: time.fromisoformat(value),
    "timedelta": lambda value, depth: timedelta(*value),
    "uuid": _read_uuid,
    "decimal": lambda value, depth: Decimal(value),
    "base64": _read_bytes,
    "bytes": lambda value, depth: value.encode("utf-8"),  # kombu's spelling of bytes that are text
    "set": lambda value, depth: {_value(each, depth + 1) for each in value},
    "dict": _read_dict,
    "int": _read_int,
    "float": lambda value, depth: float(value),
}
