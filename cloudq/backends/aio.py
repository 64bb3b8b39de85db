"""Results stores for asyncio: native on AWS (extra ``aio``), over cloudq's threads elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, Protocol, TypeVar

from cloudq import aio
from cloudq.aws.factory import make_async_port
from cloudq.aws.port import AsyncPort, arun
from cloudq.backends.base import (
    ALWAYS,
    BackendCapabilities,
    Condition,
    Entry,
    ResultBackend,
    Version,
    check_key,
)
from cloudq.backends.blob import BlobBackend, BlobOperations, Request, Steps, Wait
from cloudq.backends.dynamodb import DynamoBackend, DynamoOperations
from cloudq.backends.s3 import S3Bucket
from cloudq.errors import CloudQError, MissingExtra
from cloudq.url import Url

T = TypeVar("T")

#: Objects read at once by one ``read_many``.
PARALLEL: Final = 16


class AsyncBackend(Protocol):
    """The asyncio twin of ``ResultBackend``: the same verbs, conditions and errors, awaited."""

    @property
    def capabilities(self) -> BackendCapabilities: ...

    @property
    def url(self) -> str: ...

    async def read(self, key: str) -> Entry | None: ...

    async def read_many(self, keys: Iterable[str]) -> dict[str, Entry]: ...

    async def write(
        self, key: str, value: bytes, when: Condition = ALWAYS, expires_at: float | None = None
    ) -> Version: ...

    async def delete(self, key: str, when: Condition = ALWAYS) -> None: ...

    async def close(self) -> None:
        """Give back what this twin opened; the sync store it came from stays open."""
        ...


class Bridged:
    """Any store, its verbs called in cloudq's threads."""

    def __init__(self, backend: ResultBackend) -> None:
        self._backend = backend

    @property
    def capabilities(self) -> BackendCapabilities:
        return self._backend.capabilities

    @property
    def url(self) -> str:
        return self._backend.url

    async def read(self, key: str) -> Entry | None:
        return await aio.to_thread(self._backend.read, key)

    async def read_many(self, keys: Iterable[str]) -> dict[str, Entry]:
        return await aio.to_thread(self._backend.read_many, list(keys))

    async def write(
        self, key: str, value: bytes, when: Condition = ALWAYS, expires_at: float | None = None
    ) -> Version:
        return await aio.to_thread(self._backend.write, key, value, when, expires_at)

    async def delete(self, key: str, when: Condition = ALWAYS) -> None:
        await aio.to_thread(self._backend.delete, key, when)

    async def close(self) -> None:
        """Nothing of its own to give back."""


class AsyncDynamo:
    """DynamoDB without threads."""

    def __init__(self, backend: DynamoBackend, port: AsyncPort) -> None:
        self._operations: DynamoOperations = backend.operations
        self._port = port
        self.capabilities = backend.capabilities
        self.url = backend.url

    async def read(self, key: str) -> Entry | None:
        return await arun(self._port, self._operations.read(key))

    async def read_many(self, keys: Iterable[str]) -> dict[str, Entry]:
        return await arun(self._port, self._operations.read_many(keys))

    async def write(
        self, key: str, value: bytes, when: Condition = ALWAYS, expires_at: float | None = None
    ) -> Version:
        return await arun(self._port, self._operations.write(key, value, when, expires_at))

    async def delete(self, key: str, when: Condition = ALWAYS) -> None:
        await arun(self._port, self._operations.delete(key, when))

    async def close(self) -> None:
        await self._port.close()


class AsyncBlobs:
    """A store on a bucket without threads. ``perform`` does what one request of ``blob`` asks for."""

    def __init__(
        self,
        backend: BlobBackend,
        perform: Callable[[Request], Awaitable[Any]],
        close: Callable[[], Awaitable[None]],
    ) -> None:
        self._operations: BlobOperations = backend.operations
        self._perform = perform
        self._close = close
        self.capabilities = backend.capabilities
        self.url = backend.url

    async def read(self, key: str) -> Entry | None:
        return await self._run(self._operations.read(key))

    async def read_many(self, keys: Iterable[str]) -> dict[str, Entry]:
        gate = asyncio.Semaphore(PARALLEL)

        async def one(key: str) -> Entry | None:
            async with gate:
                return await self.read(key)

        wanted = [check_key(key) for key in dict.fromkeys(keys)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_caught(one(key))) for key in wanted]
        found: dict[str, Entry] = {}
        for key, task in zip(wanted, tasks, strict=True):
            entry = task.result()
            if isinstance(entry, CloudQError):
                raise entry
            if entry is not None:
                found[key] = entry
        return found

    async def write(
        self, key: str, value: bytes, when: Condition = ALWAYS, expires_at: float | None = None
    ) -> Version:
        return await self._run(self._operations.write(key, value, when, expires_at))

    async def delete(self, key: str, when: Condition = ALWAYS) -> None:
        await self._run(self._operations.delete(key, when))

    async def close(self) -> None:
        await self._close()

    async def _run(self, steps: Steps[T]) -> T:
        try:
            request = next(steps)
            while True:
                try:
                    answer = await self._answer(request)
                except CloudQError as error:
                    request = steps.throw(error)
                else:
                    request = steps.send(answer)
        except StopIteration as stop:
            result: T = stop.value
            return result

    async def _answer(self, request: Request) -> Any:
        if isinstance(request, Wait):
            await asyncio.sleep(request.seconds)
            return None
        return await self._perform(request)


async def _caught(reading: Awaitable[T]) -> T | CloudQError:
    """The error as a value: one of ours must not arrive wrapped in an exception group."""
    try:
        return await reading
    except CloudQError as error:
        return error


def bridge(backend: ResultBackend) -> AsyncBackend:
    """The store over cloudq's threads (``cloudq.aio.to_thread``)."""
    return Bridged(backend)


def native(backend: ResultBackend, port: AsyncPort) -> AsyncBackend | None:
    """The store on an asyncio port, or None when it is not one of AWS's."""
    if isinstance(backend, DynamoBackend):
        return AsyncDynamo(backend, port)
    if isinstance(backend, BlobBackend) and isinstance(backend.bucket, S3Bucket):
        bucket = backend.bucket
        return AsyncBlobs(backend, lambda request: arun(port, bucket.request(request)), port.close)
    return None


def for_asyncio(backend: ResultBackend) -> AsyncBackend:
    """The best there is: native where the store is on AWS and aioboto3 is installed, else bridged."""
    if not isinstance(backend, DynamoBackend) and not (
        isinstance(backend, BlobBackend) and isinstance(backend.bucket, S3Bucket)
    ):
        return bridge(backend)
    query = Url.parse(backend.url).query
    # S3 is not spoken by the lean driver.
    driver = query.get("driver", "lean") if isinstance(backend, DynamoBackend) else "boto3"
    try:
        port = make_async_port(query.get("region"), query.get("endpoint_url"), query.get("profile"), driver)
    except MissingExtra:
        return bridge(backend)
    return native(backend, port) or bridge(backend)
