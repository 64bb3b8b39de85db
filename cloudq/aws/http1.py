"""HTTP/1.1 as AWS's JSON services speak it: one request, one answer of known length, keep-alive.

Free of I/O: ``head`` makes bytes, an ``AnswerReader`` is fed bytes; both transports use them.
Whatever is not plain HTTP/1.1 is a ``BrokenAnswer``: never guessed at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_END: Final = b"\r\n\r\n"
#: More than any AWS answer's head; what sends more is not AWS.
MAX_HEAD: Final = 65_536
#: SQS gives at most 10 MiB (ten messages of 1 MiB), escaped to at most six times that; DynamoDB 16 MB.
MAX_BODY: Final = 80 * 1024 * 1024
_NO_BODY: Final = (204, 304)
_WELL: Final = "HTTP/1.1 200 OK"
#: Header names that were seen, and how they are written in lower case. AWS has a few dozen.
_NAMES: Final[dict[str, str]] = {}
_MOST_NAMES: Final = 200


class BrokenAnswer(Exception):
    """The other side's bytes are no complete HTTP answer. ``began``: some of it had come."""

    def __init__(self, message: str, *, began: bool = True) -> None:
        super().__init__(message)
        self.began = began


@dataclass(slots=True)
class HttpAnswer:
    """An answer: headers by their names in lower case; ``keep``: the connection may be used again."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    keep: bool


def head(path: str, headers: Mapping[str, str]) -> bytes:
    """How a POST begins, up to the headers given. Their values must have no line breaks (checked: they are not
    all ours)."""
    lines = [f"POST {path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    text = "\r\n".join(lines) + "\r\n"
    if text.count("\n") != len(lines):
        raise ValueError("a header's value has a line break in it")
    return text.encode("latin-1")


class AnswerReader:
    """Reads one answer from the pieces in which it comes."""

    __slots__ = ("_body_at", "_buffer", "_chunks", "_headers", "_length", "_status", "_version")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._status = 0
        self._version = b""
        self._headers: dict[str, str] = {}
        self._body_at = -1
        #: Bytes of the body; -1: chunked; -2: all until the other side closes.
        self._length = 0
        self._chunks: bytearray | None = None

    @property
    def began(self) -> bool:
        """Has anything of the answer come?"""
        return bool(self._buffer) or self._body_at >= 0

    def feed(self, data: bytes) -> HttpAnswer | None:
        """Take the next piece (empty: the other side has closed); the answer once it is complete."""
        if not data:
            return self._closed()
        self._buffer += data
        while self._body_at < 0:
            if not self._head():
                return None
        if self._length == -1:
            return self._answer(bytes(self._chunks or b"")) if self._chunked() else None
        have = len(self._buffer) - self._body_at
        if self._length == -2:
            if have > MAX_BODY:
                raise BrokenAnswer(f"an answer of more than {MAX_BODY} bytes")
            return None
        if have < self._length:
            return None
        if have > self._length:
            raise BrokenAnswer("more bytes than the answer's length says")
        return self._answer(bytes(memoryview(self._buffer)[self._body_at :]))

    def _closed(self) -> HttpAnswer | None:
        if self._body_at >= 0 and self._length == -2:
            return self._answer(bytes(memoryview(self._buffer)[self._body_at :]))
        raise BrokenAnswer("the connection was closed before the answer was complete", began=self.began)

    def _head(self) -> bool:
        """Read the head if it is all there. An interim answer (100 Continue) is skipped."""
        end = self._buffer.find(_END)
        if end < 0:
            if len(self._buffer) > MAX_HEAD:
                raise BrokenAnswer(f"an answer whose head is longer than {MAX_HEAD} bytes")
            return False
        lines = self._buffer[:end].decode("latin-1").split("\r\n")
        if lines[0] == _WELL:
            self._version, self._status = b"HTTP/1.1", 200
        else:
            self._status_line(lines[0])
        if 100 <= self._status < 200:
            del self._buffer[: end + 4]
            return bool(self._buffer) and self._head()
        headers = self._headers = {}
        for line in lines[1:]:
            raw, colon, value = line.partition(":")
            if not colon:
                raise BrokenAnswer(f"an answer with the header line {line[:80]!r}")
            name = _NAMES.get(raw) or _name(raw, line)
            value = value.strip()
            if name == "content-length" and headers.get(name, value) != value:
                raise BrokenAnswer("an answer with two lengths")
            headers[name] = value
        self._body_at = end + 4
        self._length = self._body_length()
        return True

    def _status_line(self, line: str) -> None:
        version, _, rest = line.partition(" ")
        code = rest[:3]
        if version not in ("HTTP/1.1", "HTTP/1.0") or not (
            code.isascii() and code.isdigit() and len(code) == 3
        ):
            raise BrokenAnswer(f"not an HTTP answer: {line[:80]!r}")
        self._version, self._status = version.encode(), int(code)

    def _body_length(self) -> int:
        coding = self._headers.get("transfer-encoding")
        if coding is not None:
            if coding.lower() != "chunked":
                raise BrokenAnswer(f"an answer with transfer-encoding {coding[:40]!r}")
            self._chunks = bytearray()
            return -1
        if self._status in _NO_BODY:
            return 0
        text = self._headers.get("content-length")
        if text is None:
            return -2
        if not (text.isascii() and text.isdigit()) or int(text) > MAX_BODY:
            raise BrokenAnswer(f"an answer with content-length {text[:40]!r}")
        return int(text)

    def _chunked(self) -> bool:
        """Move whole chunks from the buffer to the body; True at the end of the last one."""
        assert self._chunks is not None
        buffer = self._buffer
        while True:
            end = buffer.find(b"\r\n", self._body_at)
            if end < 0:
                return self._wait_for(self._body_at, 1024)
            size = _chunk_size(bytes(buffer[self._body_at : end]))
            if size == 0:
                # Trailers, if any, end with an empty line.
                if buffer[end : end + 4] == _END:
                    return True
                return buffer.find(_END, end) >= 0 or self._wait_for(end, MAX_HEAD)
            if len(self._chunks) + size > MAX_BODY:
                raise BrokenAnswer(f"an answer of more than {MAX_BODY} bytes")
            if len(buffer) < end + 2 + size + 2:
                return False
            self._chunks += memoryview(buffer)[end + 2 : end + 2 + size]
            if buffer[end + 2 + size : end + 4 + size] != b"\r\n":
                raise BrokenAnswer("a chunk that does not end where it says")
            del buffer[self._body_at : end + 4 + size]

    def _wait_for(self, start: int, most: int) -> bool:
        if len(self._buffer) - start > most:
            raise BrokenAnswer("a chunked answer that does not end")
        return False

    def _answer(self, body: bytes) -> HttpAnswer:
        tokens = self._headers.get("connection", "").lower()
        keep = self._version == b"HTTP/1.1" and "close" not in tokens and self._length != -2
        return HttpAnswer(self._status, self._headers, body, keep)


def _name(raw: str, line: str) -> str:
    if not raw or raw != raw.strip():
        raise BrokenAnswer(f"an answer with the header line {line[:80]!r}")
    name = raw.lower()
    if len(_NAMES) < _MOST_NAMES:
        _NAMES[raw] = name
    return name


def _chunk_size(line: bytes) -> int:
    digits = line.partition(b";")[0].strip()
    if not digits or len(digits) > 8 or any(each not in b"0123456789abcdefABCDEF" for each in digits):
        raise BrokenAnswer(f"a chunk of length {line[:40]!r}")
    return int(digits, 16)
