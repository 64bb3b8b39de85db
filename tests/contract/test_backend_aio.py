"""The asyncio twins of stores do what the stores do."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import boto3
import pytest
from aws_fakes import FrozenClock

from cloudq.backends.aio import AsyncBackend, AsyncBlobs, AsyncDynamo, Bridged, bridge, for_asyncio
from cloudq.backends.base import ABSENT, Matches
from cloudq.backends.dynamodb import DynamoBackend
from cloudq.backends.file import FileBackend
from cloudq.backends.open import open_backend
from cloudq.errors import Conflict, CorruptRecord, StoreNotFound
from cloudq.testing.stores import MemoryStore


@pytest.fixture(params=["bridged", "dynamodb", "s3"])
async def store(request: pytest.FixtureRequest, unique: str) -> AsyncIterator[AsyncBackend]:
    if request.param == "bridged":
        twin = for_asyncio(MemoryStore(FrozenClock(time.time()), conflict_has_entry=True))
        assert isinstance(twin, Bridged)
    else:
        endpoint = request.getfixturevalue("ministack_url")
        backend = open_backend(f"{request.param}://{unique}?endpoint_url={endpoint}")
        if isinstance(backend, DynamoBackend):
            backend.create_table()
        else:
            boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=unique)
        twin = for_asyncio(backend)
        assert isinstance(twin, AsyncDynamo | AsyncBlobs)
    yield twin
    await twin.close()


async def test_the_verbs_do_what_they_do_in_threads(store: AsyncBackend) -> None:
    assert await store.read("a/b") is None
    version = await store.write("a/b", b"1", ABSENT, time.time() + 60)
    with pytest.raises(Conflict) as error:
        await store.write("a/b", b"2", ABSENT)
    assert error.value.present.value == b"1"
    newer = await store.write("a/b", b"2", Matches(version))
    with pytest.raises(Conflict):
        await store.delete("a/b", Matches(version))
    await asyncio.gather(*(store.write(f"m/{n}", b"%d" % n) for n in range(20)))
    many = await store.read_many(["a/b", *(f"m/{n}" for n in range(25))])
    assert {key: entry.value for key, entry in many.items()} == {
        "a/b": b"2",
        **{f"m/{n}": b"%d" % n for n in range(20)},
    }
    await store.delete("a/b", Matches(newer))
    assert await store.read("a/b") is None


async def test_an_error_among_many_reads_is_raised_as_it_is(ministack_url: str, unique: str) -> None:
    twin = for_asyncio(open_backend(f"s3://no-{unique}?endpoint_url={ministack_url}"))
    with pytest.raises(StoreNotFound):
        await twin.read_many(["a/b", "a/c"])
    with pytest.raises(StoreNotFound):
        await twin.write("a/b", b"")
    await twin.close()
    client = boto3.client("s3", endpoint_url=ministack_url)
    client.create_bucket(Bucket=unique)
    client.put_object(Bucket=unique, Key="a/c", Body=b"{}")
    twin = for_asyncio(open_backend(f"s3://{unique}?endpoint_url={ministack_url}"))
    with pytest.raises(CorruptRecord):
        await twin.read_many(["a/b", "a/c"])
    await twin.close()


async def test_without_the_extra_what_only_the_sdk_speaks_goes_over_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "aioboto3", None)
    assert isinstance(for_asyncio(open_backend("s3://bucket?region=eu-west-1")), Bridged)
    assert isinstance(for_asyncio(open_backend("dynamodb://table?region=eu-west-1&driver=boto3")), Bridged)
    assert isinstance(for_asyncio(open_backend("dynamodb://table?region=eu-west-1")), AsyncDynamo)


async def test_a_bridged_store_does_not_hold_up_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go_on = threading.Event(), threading.Event()
    real: Callable[..., object] = FileBackend.read

    def slow(self: FileBackend, key: str) -> object:
        began.set()
        assert go_on.wait(5)
        return real(self, key)

    monkeypatch.setattr(FileBackend, "read", slow)
    reading = asyncio.ensure_future(bridge(FileBackend(tmp_path)).read("a/b"))
    while not began.is_set():
        await asyncio.sleep(0)
    go_on.set()
    assert await reading is None
