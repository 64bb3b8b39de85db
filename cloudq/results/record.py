"""The record of a task: what a results store holds about it, as one JSON document."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from cloudq import states
from cloudq.errors import CorruptRecord, MessageError
from cloudq.results import failure

#: Format of the document; a newer one is refused, not guessed at.
RECORD_VERSION: Final = 1
#: Marks the record of ``revoke()`` without ``terminate``; a worker's own record of a revoked task has no such mark.
ASKED: Final = "asked"


class Record(msgspec.Struct, frozen=True):
    """One task's state. Times are seconds since the epoch.

    ``result`` is the return value (SUCCESS), the exception (FAILURE, RETRY, REVOKED, REJECTED) or
    whatever ``update_state`` was given as ``meta``. ``children`` are ids of tasks this one sent.
    """

    id: str
    state: str
    result: Any = None
    traceback: str | None = None
    retries: int = 0
    done_at: float | None = None
    name: str | None = None
    worker: str | None = None
    queue: str | None = None
    args: Any = None
    kwargs: Any = None
    runtime: float | None = None
    root_id: str | None = None
    parent_id: str | None = None
    group_id: str | None = None
    children: tuple[Any, ...] = ()
    #: RETRY only: when the next try is due; None when the retry changed more than the time.
    retry_at: float | None = None
    extra: Mapping[str, Any] = msgspec.field(default_factory=dict)

    @property
    def final(self) -> bool:
        return states.is_final(self.state)

    @property
    def asked(self) -> bool:
        """Revoked by a caller who could not tell whether it ran: the end of a run that went on is written over it."""
        return self.state == states.REVOKED and self.extra.get(ASKED) is True

    @property
    def failed(self) -> bool:
        return self.state in states.PROPAGATE_STATES

    def with_(self, **changes: Any) -> Record:
        return replace(self, **changes)

    def shortened(self) -> Record:
        """The same end in few words, for a failure whose record cannot be stored whole: a named
        stand-in for the exception, the end of the traceback, no arguments."""
        error = self.result
        if isinstance(error, BaseException):
            error = failure.stand_in(error, _SHORT_MESSAGE)
        trace = self.traceback
        if trace is not None and len(trace) > _SHORT_TRACEBACK:
            trace = "[...]\n" + trace[-_SHORT_TRACEBACK:]
        return replace(self, result=error, traceback=trace, args=None, kwargs=None)


#: Fields written as they are, and what each may be.
_PLAIN: Final[dict[str, type | tuple[type, ...]]] = {
    "traceback": str,
    "retries": int,
    "done_at": (int, float),
    "name": str,
    "worker": str,
    "queue": str,
    "runtime": (int, float),
    "root_id": str,
    "parent_id": str,
    "group_id": str,
    "retry_at": (int, float),
}
#: What is left of texts in a record that does not fit into its store.
_SHORT_MESSAGE: Final = 2_000
_SHORT_TRACEBACK: Final = 8_000

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def dump(record: Record, pack: Callable[[Any], Any]) -> bytes:
    """The document. ``pack`` makes values JSON-able (``Codec.pack``); raises SerializationError."""
    document: dict[str, Any] = {"v": RECORD_VERSION, "id": record.id, "state": record.state}
    if isinstance(record.result, BaseException):
        document["error"] = failure.to_plain(record.result, pack)
    elif record.result is not None:
        document["result"] = pack(record.result)
    for name in _PLAIN:
        value = getattr(record, name)
        if value:
            document[name] = value
    if record.args is not None or record.kwargs is not None:
        document["arguments"] = pack([record.args, record.kwargs])
    if record.children:
        document["children"] = list(record.children)
    return _encode({**record.extra, **document} if record.extra else document)


def load(
    data: bytes, unpack: Callable[[Any], Any], key: str, accept: failure.Accept = failure.anywhere
) -> Record:
    """Read a document. Raises CorruptRecord naming ``key``."""
    try:
        document = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptRecord(f"the record {key} is no JSON document: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("state"), str):
        raise CorruptRecord(f"the record {key} is not a task record")
    version = document.pop("v", RECORD_VERSION)
    if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version <= RECORD_VERSION:
        raise CorruptRecord(
            f"the record {key} has format {version!r}; this release reads up to {RECORD_VERSION}: upgrade cloudq here"
        )
    try:
        return _build(document, unpack, accept)
    except (MessageError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CorruptRecord(f"the record {key} cannot be read: {error}") from error


def _build(document: dict[str, Any], unpack: Callable[[Any], Any], accept: failure.Accept) -> Record:
    fields: dict[str, Any] = {name: document.pop(name) for name in _PLAIN if name in document}
    for name, value in fields.items():
        if not isinstance(value, _PLAIN[name]):
            raise TypeError(f"$.{name} holds {value!r}")
    task_id, children = document.pop("id", None), document.pop("children", [])
    if not isinstance(task_id, str) or not isinstance(children, list):
        raise TypeError("$.id is no text" if not isinstance(task_id, str) else "$.children is no array")
    if "error" in document:
        fields["result"] = failure.from_plain(document.pop("error"), unpack, accept)
    elif "result" in document:
        fields["result"] = unpack(document.pop("result"))
    if "arguments" in document:
        fields["args"], fields["kwargs"] = unpack(document.pop("arguments"))
    return Record(
        id=task_id,
        state=document.pop("state"),
        children=tuple(children),
        extra=document,
        **fields,
    )
