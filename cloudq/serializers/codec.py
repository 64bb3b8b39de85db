"""The wire format, version 1: envelopes as the text of an SQS message, and back.

Documented for other languages in ``docs/reference/protocol.md``. Reading never raises anything but
a MessageError, whatever the text; what a newer release wrote is refused, not guessed at.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec

from cloudq import plugins
from cloudq.clock import SYSTEM_CLOCK, Clock
from cloudq.errors import (
    ContentDisallowed,
    DecodeError,
    DecryptionFailed,
    ImproperlyConfigured,
    MessageError,
    OperationalError,
    PayloadMissing,
    PayloadRefused,
    SerializationError,
    SignatureInvalid,
    UnsupportedVersion,
)
from cloudq.message import NAME_HEADER, WIRE_VERSION, Envelope, PayloadRef
from cloudq.security.encryption import Sealer
from cloudq.security.signing import KeyRing
from cloudq.serializers import compression as folding
from cloudq.serializers import fields, json, tagged, usual
from cloudq.serializers.base import Serializer

_encode = msgspec.json.Encoder().encode

#: Longest text, in characters, that a message sends along whose complete text lies elsewhere.
MAX_HEAD: Final = 8192

#: Marks a result that is not plain JSON, inside a record.
CONTENT: Final = "__content__"

#: What unsafe content of a result is signed for, in place of a queue; no queue has such a name.
_RESULTS: Final = "\0results"

#: Characters that JSON may hold and SQS refuses (control characters are escaped by JSON already).
_REFUSED: Final = re.compile("[\ufffe\uffff]")


#: What is said of a message that would be another task each time somebody sends it again.
_NO_ID: Final = (
    "the message is signed but has no id, so that a copy of it could not be recognised: sign it with an id, or, "
    f"if the same text is sent again and again on purpose, with the header {NAME_HEADER}"
)


class Payloads(Protocol):
    """Reads texts that messages point to (``cloudq.brokers.claimcheck``)."""

    def load(self, ref: PayloadRef) -> str: ...


class Codec:
    """Writes and reads messages and results. Immutable; one per app and process.

    ``accept_content`` names the serializers whose content is read; ``pickle`` among them also
    demands signing ``keys``. ``compression_threshold`` is bytes. Without ``payloads`` messages that
    point elsewhere are refused.
    """

    def __init__(
        self,
        *,
        serializer: str = "json",
        result_serializer: str = "json",
        accept_content: Sequence[str] = ("json",),
        compression: str | None = None,
        compression_threshold: int = 16384,
        keys: Mapping[str, Any] | None = None,
        sealer: Sealer | None = None,
        security_required: bool = False,
        payloads: Payloads | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._payloads = payloads
        self._ring = KeyRing(keys or {}, clock)
        self._sealer = sealer
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
        self._reads_json = "application/json" in self._accepted
        #: No signature is looked at.
        self._takes_any = not security_required and not self._ring
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

    @property
    def binds(self) -> bool:
        """Are messages signed or encrypted, so that nobody may change their text on the way?"""
        return bool(self._ring) or self._sealer is not None

    # --- messages -----------------------------------------------------------------------------

    def encode(
        self, envelope: Envelope, queue: str, *, serializer: str | None = None, compression: str | None = None
    ) -> str:
        """The body of the message. Raises SerializationError naming the path of what cannot be written."""
        return self.seal(self.write(envelope, serializer=serializer, compression=compression), queue)

    def write(
        self, envelope: Envelope, *, serializer: str | None = None, compression: str | None = None
    ) -> str:
        """The text of the task message, before it is signed: see ``encode``."""
        document: dict[str, Any] = {"v": WIRE_VERSION}
        fields.head(document, envelope)
        self._write_arguments(document, envelope, serializer or self._name, compression or self._compression)
        fields.write(document, envelope)
        if envelope.extra:
            document = {**envelope.extra, **document}
        text = _text(document)
        return self._encrypted(envelope, text) if self._sealer else text

    def refer(self, envelope: Envelope, ref: PayloadRef) -> str:
        """The text of a message whose complete text lies elsewhere, with what is asked of it before
        that is read: which task, which try, and its headers (by which it may be revoked), unless they are
        long, or only for key holders."""
        document: dict[str, Any] = {"v": WIRE_VERSION}
        fields.head(document, envelope)
        if envelope.retries:
            document["retries"] = envelope.retries
        document["ref"] = ref.plain()
        if envelope.headers and self._sealer is None:
            headers = tagged.to_plain(dict(envelope.headers), "$.headers")
            if len(told := _text({**document, "headers": headers})) <= MAX_HEAD:
                return told
        return _text(document)

    def _encrypted(self, envelope: Envelope, text: str) -> str:
        """The text of a message that only key holders read; which task and which try stay in clear."""
        assert self._sealer is not None
        how, data = self._sealer.seal(text.encode(), _about(envelope.id, envelope.task))
        document: dict[str, Any] = {"v": WIRE_VERSION}
        fields.head(document, envelope)
        if envelope.retries:
            document["retries"] = envelope.retries
        sealed = {**how, "data": base64.b64encode(data).decode("ascii")}
        return _text({**document, "encrypted": sealed})

    def _decrypted(self, document: Mapping[str, Any]) -> str:
        how = dict(_object(document["encrypted"], "encrypted"))
        data, task_id, task = how.pop("data", None), document.get("id", ""), document.get("task")
        if not (isinstance(data, str) and isinstance(task_id, str) and isinstance(task, str)):
            raise DecodeError(
                "an encrypted message has task (and id, if any), and $.encrypted has data, all text"
            )
        if self._sealer is None:
            raise DecryptionFailed("the message is encrypted: set security_encryption_keys")
        try:
            raw = base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError) as error:
            raise DecodeError(f"$.encrypted.data is not base64: {error}") from error
        return self._sealer.open(how, raw, _about(task_id, task)).decode("utf-8")

    def seal(self, text: str, queue: str) -> str:
        """The body of a task message: its text, signed where there are keys."""
        if not self._ring:
            return text
        signature = self._ring.sign(text, queue, fields.moment_text(self._clock.time()))
        return _text({"v": WIRE_VERSION, "signed": text, "signature": signature.plain()})

    def _write_arguments(
        self, document: dict[str, Any], envelope: Envelope, serializer: str, compression: str | None
    ) -> None:
        _check_names(envelope.kwargs)
        if compression is not None:
            folding.check(compression)
        if serializer != "json":
            found = self._serializer(serializer)
            data = found.dumps([list(envelope.args), dict(envelope.kwargs)])
            encoding, data = self._fold(data, compression)
            document["content"] = _content(found, encoding, data)
            return
        # paths begin at the arguments: $[0] is the first positional, $['x'] the keyword x
        args = tagged.to_plain(envelope.args) if envelope.args else []
        kwargs = tagged.to_plain(envelope.kwargs) if envelope.kwargs else {}
        if compression is not None:
            data = _encode([args, kwargs])
            encoding, folded = self._fold(data, compression)
            if len(folded) * 4 < len(data) * 3:  # base64 makes four bytes of three
                document["content"] = _content(self._serializer("json"), encoding, folded)
                return
        if args:
            document["args"] = args
        if kwargs:
            document["kwargs"] = kwargs

    def _fold(self, data: bytes, compression: str | None) -> tuple[str, bytes]:
        """The encoding's name and the bytes: compressed if there are enough of them and it helps."""
        if compression is not None and len(data) >= self._threshold:
            folded = folding.compress(compression, data)
            if len(folded) < len(data):
                return f"{compression}+base64", folded
        return "base64", data

    def decode(self, body: str, queue: str, message_id: str, *, sent_at: float | None = None) -> Envelope:
        """Read a message's text. ``message_id`` becomes the id of a task that has none.

        Raises DecodeError, UnsupportedVersion, ContentDisallowed, SignatureInvalid; for a message whose text
        lies elsewhere also PayloadRefused, PayloadMissing, PayloadDamaged (MessageErrors, all of them) and
        OperationalError, when that place is away. Nothing else.
        """
        try:
            text, signed = (body, False) if self._takes_any else self._open(body, queue)
            # where an id is needed none is lent: without one it is `_read` that says what is wrong
            lent = "" if self._required else message_id
            found = usual.read(text, lent, sent_at) if self._reads_json else None
            if found is not None and (found.id or not self._required):
                return found
            if self._takes_any:
                text, signed = self._open(body, queue)
            return self._read(text, signed, message_id, sent_at)
        except (MessageError, OperationalError, MemoryError):  # the last two are not the message's fault
            raise
        except Exception as error:  # a plug-in's own: a message never stops a worker
            raise DecodeError(f"the message cannot be read: {error or type(error).__name__}") from error

    def decode_at_once(self, body: str, message_id: str, *, sent_at: float | None = None) -> Envelope | None:
        """As ``decode``, of a message in the usual spelling that nobody has to vouch for; None: it takes ``decode``,
        which may wait for others. Never raises but for MemoryError."""
        return usual.read(body, message_id, sent_at) if self._takes_any and self._reads_json else None

    def _open(self, body: str, queue: str) -> tuple[str, bool]:
        """The text of the task message, and whether a signature vouches for it."""
        if '"signed"' not in body and "\\u00" not in body:  # which may spell it
            self._refuse_unsigned()
            return body, False
        document = _object(json.decode(body))
        if "signed" not in document:
            self._refuse_unsigned()
            return body, False
        _check_version(document)
        text = document["signed"]
        if not isinstance(text, str):
            raise DecodeError("$.signed is not text")
        if self._ring:
            self._ring.verify(text, queue, document.get("signature"))
        return text, bool(self._ring)

    def _refuse_unsigned(self) -> None:
        if self._required:
            raise SignatureInvalid("the message is not signed, and this app reads only signed ones")

    def _read(self, text: str, signed: bool, message_id: str, sent_at: float | None) -> Envelope:
        document = _task_message(text)
        if "ref" in document:
            text = self._fetch(document)  # vouched for by its SHA-256, and that by the signature
            document = _same_task(document, _task_message(text), "ref")
        if "encrypted" in document:
            text = self._decrypted(document)
            document = _same_task(document, _task_message(text), "encrypted")
        document.pop("v", None)
        args, kwargs = self._read_arguments(document, signed, tagged.may_be_tagged(text))
        known, unknown = fields.read(document)
        if "task" not in known:
            raise DecodeError("$.task: the name of the task is missing")
        if not known.get("id"):
            if self._required and NAME_HEADER not in known.get("headers", ()):
                raise SignatureInvalid(_NO_ID)
            known["id"] = message_id
        known.setdefault("sent_at", sent_at)
        return Envelope(args=args, kwargs=kwargs, extra=unknown, **known)

    def _fetch(self, document: Mapping[str, Any]) -> str:
        """The text that the message points to."""
        try:
            ref = PayloadRef.read(document["ref"])
        except ValueError as error:
            raise DecodeError(str(error)) from None
        if self._payloads is None:
            raise PayloadRefused(
                f"the message lies in {ref.uri[:200]}, and this app reads from nowhere: set broker_large_messages"
            )
        try:
            return self._payloads.load(ref)
        except PayloadMissing as error:
            known, _ = fields.read(
                {name: document[name] for name in ("id", "task", "retries") if name in document}
            )
            raise PayloadMissing(str(error), Envelope(**{"task": "", **known})) from error

    def _read_arguments(
        self, document: dict[str, Any], signed: bool, walk: bool
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args, kwargs = document.pop("args", None), document.pop("kwargs", None)
        content = document.pop("content", None)
        if content is not None:
            if args is not None or kwargs is not None:
                raise DecodeError("$.content stands beside $.args or $.kwargs")
            args, kwargs = self._unfold(content, signed)
        elif args is not None or kwargs is not None:
            if not self._reads_json:
                raise ContentDisallowed("the content type application/json is not in accept_content")
            if walk:
                args, kwargs = tagged.from_plain(args), tagged.from_plain(kwargs)
        if args is not None and not isinstance(args, list | tuple):
            raise DecodeError(f"$.args is an array, not {fields.kind(args)}")
        if kwargs is not None and not (isinstance(kwargs, dict) and all(isinstance(k, str) for k in kwargs)):
            raise DecodeError(f"$.kwargs is an object, not {fields.kind(kwargs)}")
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
            raise ContentDisallowed(f"the content type {kind[:80]} is not in accept_content")
        if not found.safe and not signed:
            raise ContentDisallowed(f"the content type {kind} is only read from signed messages")
        folded, _, coded = encoding.rpartition("+")
        if coded != "base64":
            raise DecodeError(f"$.content.encoding {encoding[:80]!r} is not known")
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
            plain = tagged.to_plain(value)
            if isinstance(plain, dict) and CONTENT in plain:  # the task's own: never to be taken for ours
                return {tagged.TYPE: "dict", tagged.VALUE: [[key, each] for key, each in plain.items()]}
            return plain
        found = self._serializer(name)
        content = _content(found, "base64", found.dumps(value))
        if not found.safe:
            now = fields.moment_text(self._clock.time())
            content["signature"] = self._ring.sign(content["data"], _RESULTS, now).plain()
        return {CONTENT: content}

    def unpack(self, plain: Any) -> Any:
        """The value again. Raises DecodeError, ContentDisallowed, SignatureInvalid."""
        if isinstance(plain, dict) and len(plain) == 1 and CONTENT in plain:
            content = _object(plain[CONTENT], CONTENT)
            signature = content.get("signature")
            if signature is not None and self._ring:
                self._ring.verify(str(content.get("data")), _RESULTS, signature)
            return self._load_content(content, signature is not None and bool(self._ring))
        return tagged.from_plain(plain)


def _task_message(text: str) -> dict[str, Any]:
    document = _object(json.decode(text))
    _check_version(document)
    if "signed" in document:
        raise DecodeError("$.signed: a signed message inside a signed message is not read")
    return document


def _same_task(outer: Mapping[str, Any], inner: dict[str, Any], how: str) -> dict[str, Any]:
    """The message that was elsewhere, or encrypted, after a look at whether it is the one announced."""
    if "ref" in inner or (how == "encrypted" and how in inner):
        raise DecodeError(f"$.{how}: what it points to points on; that is not followed")
    for name in ("id", "task"):
        if name in outer and outer[name] != inner.setdefault(name, outer[name]):
            raise DecodeError(f"$.{how}: it is a message of another {name}")
    return inner


def _about(task_id: str, task: str) -> bytes:
    """What an encrypted message is bound to; no task id holds the byte 0."""
    return (
        b"message\x00"
        + task_id.encode("utf-8", "surrogatepass")
        + b"\x00"
        + task.encode("utf-8", "surrogatepass")
    )


def _check_names(kwargs: Mapping[str, Any]) -> None:
    for name in kwargs:
        if not isinstance(name, str):
            raise SerializationError(f"names of keyword arguments are text, not {name!r}", "$")
        if name == tagged.TYPE:
            raise SerializationError(f"no keyword argument may be called {tagged.TYPE}", "$")


def _content(serializer: Serializer, encoding: str, data: bytes) -> dict[str, Any]:
    return {
        "type": serializer.content_type,
        "encoding": encoding,
        "data": base64.b64encode(data).decode("ascii"),
    }


def _text(document: Mapping[str, Any]) -> str:
    try:
        text = _encode(document).decode("utf-8")
    except (UnicodeError, msgspec.MsgspecError, TypeError, OverflowError, RecursionError) as error:
        raise SerializationError(f"the message cannot be written: {error}") from error
    if text.isascii():
        return text
    return _REFUSED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _object(value: Any, where: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DecodeError(
            f"{'$.' + where if where else 'the message'} is a JSON object, not {fields.kind(value)}"
        )
    return value


def _check_version(document: Mapping[str, Any]) -> None:
    version = document.get("v", WIRE_VERSION)
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise DecodeError(f"$.v is a whole number from 1, not {str(version)[:80]!r}")
    if version > WIRE_VERSION:
        raise UnsupportedVersion(
            f"the message has wire format {version}; this release reads up to {WIRE_VERSION}: upgrade the workers first"
        )
