"""The verbs of a store on a bucket, against a bucket in memory that can lose replies."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from aws_fakes import FrozenClock

from cloudq.backends.base import ABSENT, ALWAYS, BackendCapabilities, Condition, Matches, Version
from cloudq.backends.blob import (
    ATTEMPTS,
    Blob,
    BlobBackend,
    Get,
    Listed,
    Mismatch,
    Put,
    Remove,
    Request,
    TryAgain,
    join_version,
    split_version,
)
from cloudq.backends.document import Document, dump
from cloudq.errors import Conflict, CorruptRecord, ServiceUnavailable


class MemoryBucket:
    """Objects in a dict. ``script`` holds what happens at the next puts: "lost" (done, and the bucket's
    client asks again), "again" (a 409), or a function to call before the put."""

    place = "test://bucket"

    def __init__(self) -> None:
        self.objects: dict[str, Blob] = {}
        self.expiries: dict[str, float | None] = {}
        self.tags = count(1)
        self.requests: list[Request] = []
        self.script: list[Any] = []

    def perform(self, request: Request) -> Any:
        self.requests.append(request)
        match request:
            case Get(name):
                return self.objects.get(name)
            case Put():
                event = self.script.pop(0) if self.script else None
                if event == "again":
                    raise TryAgain("409")
                if callable(event):
                    event()
                if event == "lost":
                    self.put(request)
                return self.put(request)
            case Remove(name, tag):
                if self.script and self.script.pop(0) == "again":
                    raise TryAgain("409")
                if tag is not None and (name not in self.objects or self.objects[name].tag != tag):
                    raise Mismatch(name)
                self.objects.pop(name, None)
                return None
        raise AssertionError(request)

    def put(self, put: Put) -> str:
        there = self.objects.get(put.name)
        if put.when == "absent" and there is not None:
            raise Mismatch(put.name)
        if put.when == "tag" and (there is None or there.tag != put.tag):
            raise Mismatch(put.name)
        tag = f"t{next(self.tags)}"
        self.objects[put.name] = Blob(put.data, tag)
        self.expiries[put.name] = put.expires_at
        return tag

    def list(self, prefix: str) -> Iterator[Listed]:
        for name in self.objects:
            if name.startswith(prefix) and "/" not in name[len(prefix) :]:
                yield Listed(name, self.expiries.get(name))

    def close(self) -> None:
        pass


@pytest.fixture
def bucket() -> MemoryBucket:
    return MemoryBucket()


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture
def store(bucket: MemoryBucket, clock: FrozenClock) -> BlobBackend:
    return BlobBackend(bucket, "pre/", "test://bucket/pre", BackendCapabilities(), clock)


def test_each_verb_costs_one_request_when_nothing_is_in_the_way(
    store: BlobBackend, bucket: MemoryBucket
) -> None:
    version = store.write("a/b", b"1", ABSENT)
    version = store.write("a/b", b"2", Matches(version))
    store.read("a/b")
    store.delete("a/b", Matches(version))
    assert [type(each) for each in bucket.requests] == [Put, Put, Get, Remove]


@pytest.mark.parametrize("present", [None, b"old"])
def test_a_conditional_write_whose_reply_was_lost_is_known_as_done(
    store: BlobBackend, bucket: MemoryBucket, present: bytes | None
) -> None:
    when: Condition = ABSENT if present is None else Matches(store.write("k", present))
    bucket.script = ["lost"]
    version = store.write("k", b"mine", when)
    entry = store.read("k")
    assert entry is not None
    assert (entry.value, entry.version) == (b"mine", version)


def test_a_lost_race_names_the_winner(store: BlobBackend, bucket: MemoryBucket) -> None:
    bucket.script = [lambda: store.write("k", b"theirs")]
    with pytest.raises(Conflict) as error:
        store.write("k", b"mine", ABSENT)
    assert error.value.present.value == b"theirs"
    assert error.value.present == store.read("k")


def test_absent_writes_over_an_expired_entry_but_only_over_that_one(
    store: BlobBackend, bucket: MemoryBucket, clock: FrozenClock
) -> None:
    store.write("k", b"old", ALWAYS, clock.now + 1)
    clock.now += 1
    assert store.read("k") is None
    bucket.requests.clear()
    store.write("k", b"new", ABSENT)
    assert [each.when for each in bucket.requests if isinstance(each, Put)] == ["absent", "tag"]

    store.write("r", b"old", ALWAYS, clock.now + 1)
    clock.now += 1
    bucket.script = [None, lambda: store.write("r", b"faster")]
    with pytest.raises(Conflict) as error:
        store.write("r", b"mine", ABSENT)
    assert error.value.present.value == b"faster"


def test_absent_begins_anew_when_the_expired_entry_is_deleted_meanwhile(
    store: BlobBackend, bucket: MemoryBucket, clock: FrozenClock
) -> None:
    store.write("k", b"old", ALWAYS, clock.now + 1)
    clock.now += 1
    bucket.script = [None, bucket.objects.clear]
    store.write("k", b"new", ABSENT)
    entry = store.read("k")
    assert entry is not None
    assert entry.value == b"new"


def test_a_condition_on_an_expired_entry_fails_although_the_bucket_would_allow_it(
    store: BlobBackend, clock: FrozenClock
) -> None:
    version = store.write("k", b"old", ALWAYS, clock.now + 1)
    clock.now += 1
    with pytest.raises(Conflict) as error:
        store.write("k", b"new", Matches(version))
    assert error.value.present is None
    with pytest.raises(Conflict):
        store.delete("k", Matches(version))


def test_a_409_is_tried_again_after_a_wait_and_given_up_in_the_end(
    store: BlobBackend, bucket: MemoryBucket, clock: FrozenClock
) -> None:
    bucket.script = ["again", "again"]
    store.write("k", b"1", ABSENT)
    assert len(clock.slept) == 2
    assert all(0 < each < 1 for each in clock.slept)
    bucket.script = ["again"] * ATTEMPTS
    with pytest.raises(ServiceUnavailable, match=r"'k' in test://bucket is being changed by others"):
        store.write("k", b"2")
    bucket.script = ["again"]
    store.delete("k")
    assert store.read("k") is None


def test_a_foreign_object_under_a_key_is_refused_with_its_name(
    store: BlobBackend, bucket: MemoryBucket
) -> None:
    bucket.objects["pre/k"] = Blob(b"{}", "t")
    with pytest.raises(CorruptRecord, match="test://bucket/pre/k is not a document"):
        store.read("k")
    with pytest.raises(CorruptRecord, match="test://bucket/pre/k"):
        store.read_many(["k", "other"])
    with pytest.raises(CorruptRecord):
        store.write("k", b"", ABSENT)
    store.write("k", b"", ALWAYS)


def test_a_document_of_a_newer_release_is_never_overwritten_under_a_condition(
    store: BlobBackend, bucket: MemoryBucket
) -> None:
    data = dump(Document(bytes(16), b"x"))
    bucket.objects["pre/k"] = Blob(data[:3] + b"\x02" + data[4:], "t")
    with pytest.raises(CorruptRecord, match="upgrade cloudq here"):
        store.write("k", b"mine", ABSENT)
    assert bucket.objects["pre/k"].tag == "t"


def test_keys_are_sorted_by_their_own_text_and_leave_out_what_is_known_to_have_expired(
    store: BlobBackend, clock: FrozenClock
) -> None:
    for key in ("f/b", "f/%", "f/a", "f/g/deep", "other"):
        store.write(key, b"")
    store.write("f/gone", b"", ALWAYS, clock.now)
    assert list(store.keys("f/")) == ["f/%", "f/a", "f/b"]


def test_deleting_only_if_absent_makes_no_sense(store: BlobBackend) -> None:
    with pytest.raises(ValueError, match="ABSENT"):
        store.delete("k", ABSENT)


@pytest.mark.parametrize("expires_at", [None, 0.1, 1e300, 1_800_000_000.123456])
def test_a_version_carries_tag_and_expiry_exactly(expires_at: float | None) -> None:
    version = join_version('"abc;def"', expires_at)
    assert split_version(Version(str(version))) == ('"abc;def"', expires_at)


@pytest.mark.parametrize("version", ["", "12345", "x;y", ";"])
def test_a_version_of_another_store_matches_nothing(store: BlobBackend, version: str) -> None:
    store.write("k", b"1")
    with pytest.raises(Conflict):
        store.write("k", b"2", Matches(Version(version)))
    with pytest.raises(Conflict):
        store.delete("k", Matches(Version(version)))
