"""The lean AWS port for asyncio: as ``lean``, on asyncio's streams."""

from __future__ import annotations

import asyncio
import ssl
import time
import weakref

from cloudq.aws import awsjson
from cloudq.aws.http1 import AnswerReader, BrokenAnswer, HttpAnswer
from cloudq.aws.identity import Endpoint, Identity
from cloudq.aws.lean import needs_proxy, tls_context
from cloudq.aws.mock import sdk_is_mocked
from cloudq.aws.options import CONNECT_TIMEOUT, POOL_SIZE
from cloudq.aws.port import Answer, AsyncPort, Call, Pause
from cloudq.aws.quota import RetryQuota
from cloudq.aws.wire import Renew, Send, Wire, conversation
from cloudq.clock import SYSTEM_CLOCK, Clock

_PIECE = 262_144
#: Seconds after which an unused connection is not used again.
_STALE = 20.0
#: Seconds between two looks whether temporary credentials want to be renewed. botocore renews them
#: minutes before they expire, so that no call finds them expired.
_LOOK_AT_CREDENTIALS = 30.0


class _Stream:
    """One connection of an event loop. ``began``: has anything of the last answer come?"""

    def __init__(
        self, endpoint: Endpoint, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.endpoint = endpoint
        self.began = False
        self.idle_since = 0.0
        self._reader = reader
        self._writer = writer

    async def exchange(self, data: bytes) -> HttpAnswer:
        self.began = False
        self._writer.write(data)
        await self._writer.drain()
        answers = AnswerReader()
        while True:
            piece = await self._reader.read(_PIECE)
            answer = answers.feed(piece)
            self.began = True
            if answer is not None:
                return answer

    def usable(self, now: float) -> bool:
        closed = self._reader.at_eof() or self._writer.is_closing() or self._reader.exception() is not None
        return not closed and now - self.idle_since < _STALE

    def close(self) -> None:
        self._writer.close()


class _Loop:
    """What one event loop has: its streams belong to it."""

    def __init__(self) -> None:
        self.idle: dict[Endpoint, list[_Stream]] = {}
        self.quota = RetryQuota()

    def take(self, endpoint: Endpoint) -> _Stream | None:
        idle = self.idle.get(endpoint)
        while idle:
            stream = idle.pop()
            if stream.usable(time.monotonic()):
                return stream
            stream.close()
        return None

    def give(self, stream: _Stream, keep: bool) -> None:
        idle = self.idle.setdefault(stream.endpoint, [])
        if keep and len(idle) < POOL_SIZE:
            stream.idle_since = time.monotonic()
            idle.append(stream)
        else:
            stream.close()


class AsyncLeanPort:
    """``AsyncPort`` without botocore for the operations in ``awsjson.HOT``; the rest is aioboto3's."""

    def __init__(
        self,
        region: str | None = None,
        endpoint_url: str | None = None,
        profile: str | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._args = (region, endpoint_url, profile)
        self._clock = clock
        self._identity = Identity(*self._args)
        self._wires: dict[str, Wire | None] = {}
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Loop] = weakref.WeakKeyDictionary()
        self._looked = time.monotonic()
        self._context: ssl.SSLContext | None = None
        self._boto: AsyncPort | None = None

    @property
    def region(self) -> str:
        return self._identity.region

    async def call(self, call: Call) -> Answer:
        """See ``Port.call``. Raises MissingExtra for rare operations when aioboto3 is not there."""
        if (call.service, call.operation) not in awsjson.HOT or sdk_is_mocked():
            return await self._other().call(call)
        wire = await self._wire(call.service)
        if wire is None:
            return await self._other().call(call)
        loop = self._loops.setdefault(asyncio.get_running_loop(), _Loop())
        talk = conversation(wire, call, loop.quota)
        try:
            step = next(talk)
            while True:
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    step = talk.send(None)
                    continue
                if isinstance(step, Renew):
                    step = talk.send(await asyncio.to_thread(self._identity.renew, step.since))
                    continue
                try:
                    answer = await self._exchange(loop, wire.endpoint, step)
                except (OSError, BrokenAnswer) as error:
                    step = talk.throw(error)
                else:
                    step = talk.send(answer)
        except StopIteration as stop:
            result: Answer = stop.value
            return result

    async def _exchange(self, loop: _Loop, endpoint: Endpoint, send: Send) -> HttpAnswer:
        async with asyncio.timeout(CONNECT_TIMEOUT + send.timeout):
            stream = loop.take(endpoint)
            if stream is not None:
                try:
                    return await self._over(loop, stream, send)
                except (OSError, BrokenAnswer):
                    # Kept too long: the other side had closed it. Any other failure is a real one.
                    if stream.began:
                        raise
            return await self._over(loop, await self._connect(endpoint), send)

    async def _over(self, loop: _Loop, stream: _Stream, send: Send) -> HttpAnswer:
        try:
            answer = await stream.exchange(send.data)
        except BaseException:
            stream.close()
            raise
        loop.give(stream, answer.keep)
        return answer

    async def _connect(self, endpoint: Endpoint) -> _Stream:
        if endpoint.tls and self._context is None:
            self._context = await asyncio.to_thread(tls_context, self._identity)
        context = self._context if endpoint.tls else None
        async with asyncio.timeout(CONNECT_TIMEOUT):
            streams = await asyncio.open_connection(endpoint.host, endpoint.port, ssl=context)
        return _Stream(endpoint, *streams)

    async def _wire(self, service: str) -> Wire | None:
        """As ``LeanPort`` has it. Credentials and endpoints may be looked up over the network or in files."""
        if service not in self._wires:
            self._wires[service] = await asyncio.to_thread(self._make_wire, service)
        elif self._identity.refreshes and time.monotonic() - self._looked > _LOOK_AT_CREDENTIALS:
            # Renewing them asks a service; that must not hold the event loop.
            self._looked = time.monotonic()
            await asyncio.to_thread(self._identity.credentials)
        return self._wires[service]

    def _make_wire(self, service: str) -> Wire | None:
        wire = Wire(service, self._identity, self._clock)
        self._identity.credentials()
        return None if needs_proxy(wire.endpoint) else wire

    def _other(self) -> AsyncPort:
        if self._boto is None:
            from cloudq.aws.aioboto import AioPort

            self._boto = AioPort(*self._args)
        return self._boto

    async def close(self) -> None:
        """Close the running event loop's connections; a later call opens new ones."""
        loop = self._loops.pop(asyncio.get_running_loop(), None)
        if loop is not None:
            for streams in loop.idle.values():
                for stream in streams:
                    stream.close()
        if self._boto is not None:
            await self._boto.close()
