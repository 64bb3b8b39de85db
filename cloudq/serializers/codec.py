"""The wire format, version 1: envelopes as the text of an SQS message, and back.

Documented for other languages in ``docs/reference/protocol.md``. Reading never raises anything but
a MessageError, whatever the text; what a newer release wrote is refused, not guessed at.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from cloudq import plugins
from cloudq.clock import SYSTEM_CLOCK, Clock
from cloudq.errors import (
    ContentDisallowed,
    DecodeError,
    ImproperlyConfigured,
    MessageError,
    SerializationError,
    SignatureInvalid,
    UnsupportedVersion,
)
from cloudq.message import WIRE_VERSION, Envelope, GroupRef
from cloudq.serializers import compression as folding
from cloudq.serializers import json, tagged
from cloudq.serializers.base import Serializer
from cloudq.serializers.signing import KeyRing

_encode = msgspec.json.Encoder().encode

#: Marks a result that is not plain JSON, inside a record.
CONTENT: Final = "__content__"

#: Characters that JSON may hold and SQS refuses (control characters are escaped by JSON already).
_REFUSED: Final = re.compile("[\ufffe\uffff\x7f]")


class Codec:
    """Writes and reads messages and results. Immutable; one per app and process.

    ``accept_content`` names the serializers whose content is read; ``pickle`` among them also
    demands signing ``keys``. ``compression_threshold`` is bytes.
    """

    def __init__(
        self,
        *,
        serializer: str = "json",
        result_serializer: str = "json",
        accept_content: Sequence[str] = ("json",),
        compression: str | None = None,
        compression_threshold: int = 16384,
        keys: Mapping[str, str] | None = None,
        security_required: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._ring = KeyRing(keys or {})
        self._required = security_required
        self._clock = clock
        self._threshold = compression_threshold
        self._compression = folding.check(compression) if compression else None
        self._serializers: dict[str, Serializer] = {}
        self._accepted: dict[str, Serializer] = {}
        for name in accept_content:
            found = self._serializer(name)
            self._accepted[found.content_type] = found
        self._name = serializer
        self._result_name = result_serializer
        self._serializer(serializer)
        self._serializer(result_serializer)
        if security_required and not self._ring:
            raise ImproperlyConfigured("security_required needs security_keys")

    def _serializer(self, name: str) -> Serializer:
        found = self._serializers.get(name)
        if found is None:
            made: Serializer = plugins.load("serializers", name)()
            if not made.safe and not self._ring:
                raise ImproperlyConfigured(
                    f"the serializer {name} can run code when it reads: it needs signed messages, set security_keys"
                )
            found = self._serializers[name] = made
        return found

    # --- messages -----------------------------------------------------------------------------

    def encode(
        self, envelope: Envelope, queue: str, *, serializer: str | None = None, compression: str | None = None
    ) -> str:
        """The text of the message. Raises SerializationError naming the path of what cannot be written."""
        document: dict[str, Any] = {"v": WIRE_VERSION, "id": envelope.id, "task": envelope.task}
        self._write_arguments(document, envelope, serializer or self._name, compression or self._compression)
        _write_fields(document, envelope)
        if envelope.extra:
            document = {**envelope.extra, **document}
        text = _text(document)
        if not self._ring:
            return text
        now = _moment_text(self._clock.time())
        signature = self._ring.sign(text, queue, now)
        return _text({"v": WIRE_VERSION, "signed": text, "signature": signature.plain()})

    def _write_arguments(
        self, document: dict[str, Any], envelope: Envelope, serializer: str, compression: str | None
    ) -> None:
        args, kwargs = envelope.args, envelope.kwargs
        if serializer == "json" and compression is None:
            # paths begin at the arguments: $[0] is the first positional, $['x'] the keyword x
            if args:
                document["args"] = tagged.to_plain(args)
            if kwargs:
                document["kwargs"] = tagged.to_plain(dict(kwargs))
                if tagged.TYPE in document["kwargs"]:
                    raise SerializationError(f"no keyword argument may be called {tagged.TYPE}", "$")
            return
        found = self._serializer(serializer)
        data = found.dumps([list(args), dict(kwargs)])
        if serializer == "json" and len(data) < self._threshold:
            self._write_arguments(document, envelope, serializer, None)
            return
        encoding = "base64"
        if compression is not None and len(data) >= self._threshold:
            data = folding.compress(compression, data)
            encoding = f"{compression}+base64"
        document["content"] = {
            "type": found.content_type,
            "encoding": encoding,
            "data": base64.b64encode(data).decode("ascii"),
        }

    def decode(self, body: str, queue: str, message_id: str, *, sent_at: float | None = None) -> Envelope:
        """Read a message's text. ``message_id`` becomes the id of a task that has none.

        Raises DecodeError, UnsupportedVersion, ContentDisallowed or SignatureInvalid; nothing else.
        """
        try:
            document = self._open(body, queue)
            return self._read(document, message_id, sent_at)
        except MessageError:
            raise
        except (msgspec.DecodeError, RecursionError, ValueError, TypeError, OverflowError) as error:
            raise DecodeError(f"the message cannot be read: {error}") from error

    def _open(self, body: str, queue: str) -> dict[str, Any]:
        document = _object(json.decode(body))
        if "signed" not in document:
            if self._required:
                raise SignatureInvalid("the message is not signed, and this app reads only signed ones")
            _check_version(document)
            return document
        _check_version(document)
        text = document["signed"]
        if not isinstance(text, str):
            raise DecodeError("$.signed is not text")
        if self._ring:
            self._ring.verify(text, queue, document.get("signature"))
        inner = _object(json.decode(text))
        _check_version(inner)
        inner["\0signed"] = bool(self._ring)
        return inner

    def _read(self, document: dict[str, Any], message_id: str, sent_at: float | None) -> Envelope:
        signed = document.pop("\0signed", False)
        document.pop("v", None)
        if "ref" in document:
            raise DecodeError("$.ref: the arguments are in a blob store, and this app has none configured")
        args, kwargs = self._read_arguments(document, signed)
        fields = {
            name: reader(document.pop(name), name) for name, reader in _FIELDS.items() if name in document
        }
        if not fields.get("task"):
            raise DecodeError("$.task: the name of the task is missing")
        fields.setdefault("id", message_id)
        fields["id"] = fields["id"] or message_id
        fields.setdefault("sent_at", sent_at)
        return Envelope(args=args, kwargs=kwargs, extra=document, **fields)

    def _read_arguments(
        self, document: dict[str, Any], signed: bool
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        content = document.pop("content", None)
        if content is None:
            args, kwargs = document.pop("args", None), document.pop("kwargs", None)
            if (args is not None or kwargs is not None) and "application/json" not in self._accepted:
                raise ContentDisallowed("the content type application/json is not in accept_content")
            args = tagged.from_plain(args) if args else args
            kwargs = tagged.from_plain(kwargs) if kwargs else kwargs
        else:
            if "args" in document or "kwargs" in document:
                raise DecodeError("$.content stands beside $.args or $.kwargs")
            args, kwargs = self._unfold(content, signed)
        if args is not None and not isinstance(args, list | tuple):
            raise DecodeError(f"$.args is an array, not {_kind(args)}")
        if kwargs is not None and not (isinstance(kwargs, dict) and all(isinstance(k, str) for k in kwargs)):
            raise DecodeError(f"$.kwargs is an object, not {_kind(kwargs)}")
        return tuple(args or ()), kwargs or {}

    def _unfold(self, content: Any, signed: bool) -> tuple[Any, Any]:
        value = self._load_content(content, signed)
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise DecodeError("$.content holds no [args, kwargs]")
        return value[0], value[1]

    def _load_content(self, content: Any, signed: bool) -> Any:
        content = _object(content, "content")
        kind, encoding, data = content.get("type"), content.get("encoding"), content.get("data")
        if not (isinstance(kind, str) and isinstance(encoding, str) and isinstance(data, str)):
            raise DecodeError("$.content has type, encoding and data, all text")
        found = self._accepted.get(kind)
        if found is None:
            raise ContentDisallowed(f"the content type {kind} is not in accept_content")
        if not found.safe and not signed:
            raise ContentDisallowed(f"the content type {kind} is only read from signed messages")
        folded, _, coded = encoding.rpartition("+")
        if coded != "base64":
            raise DecodeError(f"$.content.encoding {encoding!r} is not known")
        try:
            raw = base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError) as error:
            raise DecodeError(f"$.content.data is not base64: {error}") from error
        if folded:
            raw = folding.decompress(folded, raw)
        return found.loads(raw)

    # --- results ------------------------------------------------------------------------------

    def pack(self, value: Any, serializer: str | None = None) -> Any:
        """``value`` as something JSON can hold inside a record. Raises SerializationError."""
        name = serializer or self._result_name
        if name == "json":
            return tagged.to_plain(value)
        found = self._serializer(name)
        return {
            CONTENT: {
                "type": found.content_type,
                "encoding": "base64",
                "data": base64.b64encode(found.dumps(value)).decode("ascii"),
            }
        }

    def unpack(self, plain: Any) -> Any:
        """The value again. Raises DecodeError, ContentDisallowed."""
        if isinstance(plain, dict) and len(plain) == 1 and CONTENT in plain:
            content = _object(plain[CONTENT], CONTENT)
            # The store is written by this app's own workers; who can write there can run code anyway.
            return self._load_content(content, bool(self._ring))
        return tagged.from_plain(plain)


# --- writing ---------------------------------------------------------------------------------------


def _write_fields(document: dict[str, Any], envelope: Envelope) -> None:
    """Everything that is not its default."""
    for name in ("eta", "expires", "sent_at"):
        value = getattr(envelope, name)
        if value is not None:
            document[name] = _moment_text(value)
    for name in ("retries", "root_id", "parent_id", "origin"):
        value = getattr(envelope, name)
        if value:
            document[name] = value
    for name in ("time_limit", "soft_time_limit"):
        value = getattr(envelope, name)
        if value is not None:
            document[name] = value
    for name in ("chain", "link", "link_error"):
        value = getattr(envelope, name)
        if value:
            document[name] = tagged.to_plain(list(value))
    if envelope.headers:
        document["headers"] = tagged.to_plain(dict(envelope.headers))
    if envelope.chord is not None:
        document["chord"] = tagged.to_plain(dict(envelope.chord))
    if envelope.group is not None:
        group = envelope.group
        document["group"] = {"id": group.id, "index": group.index}
        if group.size is not None:
            document["group"]["size"] = group.size


def _text(document: Mapping[str, Any]) -> str:
    try:
        text = _encode(document).decode("utf-8")
    except (UnicodeError, msgspec.MsgspecError, TypeError, OverflowError) as error:
        raise SerializationError(f"the message cannot be written: {error}") from error
    return _REFUSED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _moment_text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


# --- reading ---------------------------------------------------------------------------------------


def _object(value: Any, where: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DecodeError(f"{'$.' + where if where else 'the message'} is a JSON object, not {_kind(value)}")
    return value


def _check_version(document: Mapping[str, Any]) -> None:
    version = document.get("v", WIRE_VERSION)
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise DecodeError(f"$.v is a whole number from 1, not {version!r}")
    if version > WIRE_VERSION:
        raise UnsupportedVersion(
            f"the message has wire format {version}; this release reads up to {WIRE_VERSION}: upgrade the workers first"
        )


def _kind(value: Any) -> str:
    return {dict: "an object", list: "an array", str: "text", type(None): "null"}.get(
        type(value), type(value).__name__
    )


def _read_text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise DecodeError(f"$.{name} is text, not {_kind(value)}")
    return value


def _read_optional_text(value: Any, name: str) -> str | None:
    return None if value is None else _read_text(value, name)


def _read_moment(value: Any, name: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not 0 <= value < 253_402_300_800:  # the year 10000, past what datetime holds
            raise DecodeError(f"$.{name}: {value} is out of range for seconds since the epoch")
        return float(value)
    try:
        moment = datetime.fromisoformat(_read_text(value, name))
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise DecodeError(f"$.{name}: {value!r} is no ISO-8601 time") from None


def _read_count(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise DecodeError(f"$.{name} is a whole number from 0, not {value!r}")
    return value


def _read_seconds(value: Any, name: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e10:
        raise DecodeError(f"$.{name} is a number of seconds, not {value!r}")
    return float(value)


def _read_headers(value: Any, name: str) -> dict[str, Any]:
    found = tagged.from_plain(_object({} if value is None else value, name))
    return _object(found, name)


def _read_signature(value: Any, name: str) -> dict[str, Any]:
    plain = _object(value, name)
    found = _object(tagged.from_plain(plain), name)
    if not isinstance(found.get("task"), str):
        raise DecodeError(f"$.{name}: a signature names its task")
    for part, kind in (("args", list), ("kwargs", dict), ("options", dict)):
        if not isinstance(found.get(part, kind()), kind):
            raise DecodeError(f"$.{name}.{part} is {'an array' if kind is list else 'an object'}")
    return found


def _read_signatures(value: Any, name: str) -> tuple[dict[str, Any], ...]:
    if value is None:
        return ()
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise DecodeError(f"$.{name} is an array of signatures, not {_kind(value)}")
    return tuple(_read_signature(each, f"{name}[{n}]") for n, each in enumerate(value))


def _read_optional_signature(value: Any, name: str) -> dict[str, Any] | None:
    return None if value is None else _read_signature(value, name)


def _read_group(value: Any, name: str) -> GroupRef | None:
    if value is None:
        return None
    found = _object(value, name)
    size = found.get("size")
    return GroupRef(
        _read_text(found.get("id"), f"{name}.id"),
        _read_count(found.get("index", 0), f"{name}.index"),
        None if size is None else _read_count(size, f"{name}.size"),
    )


_FIELDS: Final[dict[str, Any]] = {
    "task": _read_text,
    "id": _read_text,
    "eta": _read_moment,
    "expires": _read_moment,
    "sent_at": _read_moment,
    "retries": _read_count,
    "root_id": _read_optional_text,
    "parent_id": _read_optional_text,
    "origin": _read_optional_text,
    "group": _read_group,
    "chord": _read_optional_signature,
    "chain": _read_signatures,
    "link": _read_signatures,
    "link_error": _read_signatures,
    "time_limit": _read_seconds,
    "soft_time_limit": _read_seconds,
    "headers": _read_headers,
}
