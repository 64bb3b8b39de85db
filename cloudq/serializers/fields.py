"""The fields of a task message beside its arguments: how each is checked, written and read.

The same checks hold on both sides, so that nothing is sent which a reader would bury.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote

from cloudq.errors import DecodeError, SerializationError
from cloudq.message import Envelope, GroupRef
from cloudq.serializers import tagged

#: Longest task or group id in bytes, percent-encoded: ids are part of keys, which have 900 at most.
MAX_ID_BYTES: Final = 768
#: The years 1 and 9999, in seconds since the epoch: as far as datetime counts.
_FIRST_MOMENT: Final = -62_135_596_800
_LAST_MOMENT: Final = 253_402_300_799


class Fault(Exception):
    """What is wrong with a field: ``$.where says``."""

    def __init__(self, where: str, says: str) -> None:
        super().__init__(where, says)
        self.where = where
        self.says = says


def kind(value: Any) -> str:
    """A JSON value's kind, for error messages."""
    known = {dict: "an object", list: "an array", str: "text", type(None): "null", bool: "a boolean"}
    return known.get(type(value), type(value).__name__)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


# --- checks -----------------------------------------------------------------------------------------


def _text(value: Any, name: str) -> str:
    if isinstance(value, str):
        return value
    raise Fault(name, f"is text, not {kind(value)}")


def _task(value: Any, name: str) -> str:
    if not _text(value, name):
        raise Fault(name, "is the name of a task, not empty")
    return str(value)


def task_id(value: Any, name: str) -> str:
    """A task's id; an empty one is left to who reads the message. Raises Fault."""
    if not isinstance(value, str):
        _text(value, name)
    if len(value) * 9 > MAX_ID_BYTES or value in (".", ".."):  # 9: what one character takes at most, nearly
        taken = len(quote(value, safe="", errors="surrogatepass"))
        if taken > MAX_ID_BYTES or value in (".", ".."):
            raise Fault(
                name, f"is an id of at most {MAX_ID_BYTES} percent-encoded bytes, not {_shown(value)}"
            )
    return str(value)


def _group_id(value: Any, name: str) -> str:
    if value == "":
        raise Fault(name, "is an id, not empty")
    return task_id(value, name)


def _count(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise Fault(name, f"is a whole number from 0, not {_shown(value)}")
    return value


def _seconds(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e10:
        raise Fault(name, f"is a number of seconds above 0, not {_shown(value)}")
    return float(value)


def _epoch(value: Any, name: str) -> float:
    """Seconds since the epoch."""
    if type(value) is not float and (not isinstance(value, int | float) or isinstance(value, bool)):
        raise Fault(name, f"is seconds since the epoch, not {kind(value)}")
    if not _FIRST_MOMENT <= value <= _LAST_MOMENT:  # nor is NaN
        raise Fault(name, f"is a time before the year 10000, not {_shown(value)} seconds")
    return float(value)


def check_signature(value: Mapping[str, Any], name: str) -> None:
    """Raises Fault for a mapping that is no signature."""
    task = value.get("task")
    if not isinstance(task, str) or not task:
        raise Fault(name, "is a signature, which names its task")
    for part, wanted, says in (
        ("args", list, "is an array"),
        ("kwargs", dict, "is an object"),
        ("options", dict, "is an object"),
    ):
        if not isinstance(value.get(part, wanted()), wanted):
            raise Fault(f"{name}.{part}", says)


# --- writing ----------------------------------------------------------------------------------------


def moment_text(seconds: float) -> str:
    """ISO-8601 in UTC, to the microsecond: ``2026-11-21T12:00:00.500000Z``."""
    part, whole = math.modf(seconds)
    micros = round(part * 1e6)  # as datetime.fromtimestamp does
    if not 0 <= micros < 1_000_000:
        whole, micros = whole + micros // 1_000_000, micros % 1_000_000
    return f"{_second(whole)}.{micros:06d}Z" if micros else f"{_second(whole)}Z"


@lru_cache(maxsize=64)
def _second(whole: float) -> str:
    """What all moments of one second begin with."""
    return datetime.fromtimestamp(whole, UTC).isoformat()[:-6]


def write(document: dict[str, Any], envelope: Envelope) -> None:
    """Add every field that is not its default. Raises SerializationError."""
    try:
        _write_scalars(document, envelope)
        _write_structures(document, envelope)
    except Fault as fault:
        raise SerializationError(f"{fault.where} {fault.says}", f"$.{fault.where}") from None


def head(document: dict[str, Any], envelope: Envelope) -> None:
    """The id and the task's name, which come first. Raises SerializationError."""
    try:
        if envelope.id:
            document["id"] = task_id(envelope.id, "id")
        document["task"] = _task(envelope.task, "task")
    except Fault as fault:
        raise SerializationError(f"{fault.where} {fault.says}", f"$.{fault.where}") from None


def _write_scalars(document: dict[str, Any], envelope: Envelope) -> None:
    if envelope.eta is not None:
        document["eta"] = moment_text(_epoch(envelope.eta, "eta"))
    if envelope.expires is not None:
        document["expires"] = moment_text(_epoch(envelope.expires, "expires"))
    if envelope.sent_at is not None:
        document["sent_at"] = moment_text(_epoch(envelope.sent_at, "sent_at"))
    if envelope.retries:
        document["retries"] = _count(envelope.retries, "retries")
    if envelope.root_id:
        document["root_id"] = _text(envelope.root_id, "root_id")
    if envelope.parent_id:
        document["parent_id"] = _text(envelope.parent_id, "parent_id")
    if envelope.origin:
        document["origin"] = _text(envelope.origin, "origin")
    if envelope.time_limit is not None:
        document["time_limit"] = _seconds(envelope.time_limit, "time_limit")
    if envelope.soft_time_limit is not None:
        document["soft_time_limit"] = _seconds(envelope.soft_time_limit, "soft_time_limit")


def _write_structures(document: dict[str, Any], envelope: Envelope) -> None:
    if envelope.chain:
        document["chain"] = _plain_signatures(envelope.chain, "chain")
    if envelope.link:
        document["link"] = _plain_signatures(envelope.link, "link")
    if envelope.link_error:
        document["link_error"] = _plain_signatures(envelope.link_error, "link_error")
    if envelope.headers:
        document["headers"] = tagged.to_plain(dict(envelope.headers), "$.headers")
    if envelope.chord is not None:
        document["chord"] = _plain_signature(envelope.chord, "chord")
    group = envelope.group
    if group is not None:
        found = document["group"] = {
            "id": _group_id(group.id, "group.id"),
            "index": _count(group.index, "group.index"),
        }
        if group.size is not None:
            found["size"] = _count(group.size, "group.size")


def _plain_signature(value: Mapping[str, Any], name: str) -> dict[str, Any]:
    plain: dict[str, Any] = tagged.to_plain(dict(value), f"$.{name}")
    check_signature(plain, name)
    return plain


def _plain_signatures(values: tuple[Mapping[str, Any], ...], name: str) -> list[dict[str, Any]]:
    return [_plain_signature(each, f"{name}[{n}]") for n, each in enumerate(values)]


# --- reading ----------------------------------------------------------------------------------------


def read(document: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields this release knows, as an Envelope has them, and those it does not. Raises DecodeError."""
    known: dict[str, Any] = {}
    unknown: dict[str, Any] = {}
    try:
        for name, value in document.items():
            reader = _READERS.get(name)
            if reader is None:
                unknown[name] = value
            elif value is not None:
                known[name] = reader(value, name)
            elif name not in _NULLABLE:
                raise Fault(name, "is not null")
    except Fault as fault:
        raise DecodeError(f"$.{fault.where} {fault.says}") from None
    return known, unknown


def read_moment(value: Any, name: str) -> float:
    """Seconds since the epoch, of a time as text or as they are. Raises Fault."""
    if not isinstance(value, str):
        return _epoch(value, name)
    try:
        moment = datetime.fromisoformat(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise Fault(name, f"is an ISO-8601 time, not {_shown(value)}") from None


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Fault(name, f"is an object, not {kind(value)}")
    return value


def _read_headers(value: Any, name: str) -> dict[str, Any]:
    return _object(tagged.from_plain(_object(value, name)), name)


def _read_signature(value: Any, name: str) -> dict[str, Any]:
    found = _object(tagged.from_plain(_object(value, name)), name)
    check_signature(found, name)
    return found


def _read_signatures(value: Any, name: str) -> tuple[dict[str, Any], ...]:
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise Fault(name, f"is an array of signatures, not {kind(value)}")
    return tuple(_read_signature(each, f"{name}[{n}]") for n, each in enumerate(value))


def _read_group(value: Any, name: str) -> GroupRef:
    found = _object(value, name)
    size = found.get("size")
    return GroupRef(
        _group_id(found.get("id"), f"{name}.id"),
        _count(found.get("index", 0), f"{name}.index"),
        None if size is None else _count(size, f"{name}.size"),
    )


_READERS: Final[dict[str, Callable[[Any, str], Any]]] = {
    "task": _task,
    "id": task_id,
    "eta": read_moment,
    "expires": read_moment,
    "sent_at": read_moment,
    "retries": _count,
    "root_id": _text,
    "parent_id": _text,
    "origin": _text,
    "group": _read_group,
    "chord": _read_signature,
    "chain": _read_signatures,
    "link": _read_signatures,
    "link_error": _read_signatures,
    "time_limit": _seconds,
    "soft_time_limit": _seconds,
    "headers": _read_headers,
}
#: Null stands for the default in these.
_NULLABLE: Final = frozenset(_READERS) - {"task", "id", "retries"}
