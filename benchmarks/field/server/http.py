"""AWS JSON 1.0 over HTTP: reads requests, counts them by who signed them, adds latency, answers."""

from __future__ import annotations

import asyncio
import re
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final

import msgspec

from benchmarks.field.server.queues import Queues
from benchmarks.field.server.refusal import Refusal
from benchmarks.field.server.tables import Tables

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.I)
_TARGET: Final = re.compile(rb"\r\nx-amz-target: *(\w+)\.(\w+)", re.I)
_CLIENT: Final = re.compile(rb"Credential=([^/]+)/", re.I)
_decode: Final = msgspec.json.decode
_encode: Final = msgspec.json.encode

Reply = Callable[[bytes], None]


def message(status: int, body: bytes, header: str = "") -> bytes:
    kind = b"Content-Type: application/x-amz-json-1.0\r\n" + header.encode()
    return b"HTTP/1.1 %d OK\r\n%sContent-Length: %d\r\n\r\n%s" % (status, kind, len(body), body)


class Site:
    """Both services, what was counted, and the latency that each call gets."""

    def __init__(self) -> None:
        self.queues = Queues()
        self.tables = Tables()
        self.counts: dict[str, Counter[str]] = {}
        self.latency = 0.0

    def count(self, client: str, what: str, amount: float = 1) -> None:
        self.counts.setdefault(client, Counter())[what] += amount  # type: ignore[assignment]

    def handle(self, client: str, service: str, operation: str, body: bytes, line: Line) -> None:
        """Answer one call on its line, now or later. Who has hung up gets no messages."""
        if line.gone():
            return
        self.count(client, operation)
        params = _decode(body) if body else {}
        try:
            if operation == "ReceiveMessage":
                found = self.queues.receive(
                    params, lambda late: self._received(client, late, line), line.gone
                )
                if found is not None:
                    self._received(client, found, line)
            elif service.startswith("DynamoDB"):
                line.reply(message(200, _encode(self._stored(client, operation, params))))
            else:
                line.reply(message(200, _encode(getattr(self.queues, operation)(params))))
        except Refusal as no:
            header = f"x-amzn-query-error: {no.legacy};Sender\r\n" if no.legacy else ""
            line.reply(message(400, _encode(no.body), header))
        except (AttributeError, KeyError) as error:
            text = f"this server cannot do {operation}: {error!r}"
            line.reply(message(400, _encode({"__type": "bench#UnknownOperation", "message": text})))

    def _received(self, client: str, found: dict[str, Any], line: Line) -> None:
        messages = found.get("Messages")
        self.count(client, "received" if messages else "empty", len(messages) if messages else 1)
        line.reply(message(200, _encode(found)))

    def _stored(self, client: str, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        self.tables.reads = self.tables.writes = 0.0
        try:
            found: dict[str, Any] = getattr(self.tables, operation)(params)
        finally:
            if self.tables.reads:
                self.count(client, "read_units", self.tables.reads)
            if self.tables.writes:
                self.count(client, "write_units", self.tables.writes)
        return found

    def control(self, path: str, body: bytes) -> bytes:
        """``/_state``: counts, and messages deleted and left by queue; ``/_set`` changes settings."""
        given = _decode(body) if body else {}
        if path == "/_set":
            self.latency = given.get("latency", self.latency)
            for name, allowance in given.get("allowance", {}).items():
                queue = self.queues.named(name)
                queue.allowance = allowance
                queue.feed()
        elif path == "/_reset":
            self.counts.clear()
        elif path == "/_queue":
            queue = self.queues.named(given["name"])
            return _encode({"deleted": queue.deleted, "left": len(queue.ready) + len(queue.flying)})
        return _encode(self.counts)


class Line(asyncio.Protocol):
    """One connection: requests one after another."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.buffer = bytearray()
        self.waiting: deque[tuple[str, str, str, bytes]] = deque()
        self.busy = False
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def gone(self) -> bool:
        """Whether nobody reads answers here any more."""
        return self.transport is None or self.transport.is_closing()

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self.buffer[:end])
            match = _LENGTH.search(head)
            length = int(match[1]) if match else 0
            if len(self.buffer) < end + 4 + length:
                return
            body = bytes(self.buffer[end + 4 : end + 4 + length])
            del self.buffer[: end + 4 + length]
            self._request(head, body)

    def _request(self, head: bytes, body: bytes) -> None:
        target = _TARGET.search(head)
        if target is None:
            path = head.split(b" ", 2)[1].decode("latin-1")
            self.transport.write(message(200, self.site.control(path, body)))
            return
        client = _CLIENT.search(head)
        name = client[1].decode() if client else "?"
        self.waiting.append((name, target[1].decode(), target[2].decode(), body))
        if not self.busy:
            self._next()

    def _next(self) -> None:
        call = self.waiting.popleft()
        self.busy = True
        if self.site.latency:
            asyncio.get_running_loop().call_later(self.site.latency, self._handle, *call)
        else:
            self._handle(*call)

    def _handle(self, client: str, service: str, operation: str, body: bytes) -> None:
        self.site.handle(client, service, operation, body, self)

    def reply(self, data: bytes) -> None:
        if not self.gone():
            self.transport.write(data)
        self.busy = False
        if self.waiting:
            self._next()
