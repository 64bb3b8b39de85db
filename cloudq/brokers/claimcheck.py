"""Claim check: a text too large for the queue is kept elsewhere, and the message carries a reference.

Each message has an object of its own, under a name nobody can guess, which is written before the
message is sent and removed after it was acknowledged. So whoever removes it removes nothing that
another message needs: a retry, a hop and every other message made anew writes anew; what keeps its
message (a release, a burial, a redrive) keeps the object. A crash between two steps leaves at worst
an object that no message points to: the bucket's lifecycle rule removes it.

In buckets the object is the plain text, so any language can write one; other stores keep it as an
entry of theirs. A reference is followed only into the configured places (issue 3, decision 16).
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any, Final, Protocol, TypeVar

import msgspec

from cloudq.backends.base import ResultBackend
from cloudq.backends.blob import Blob, BlobBackend, Bucket, Get, Mismatch, Put, Remove, TryAgain
from cloudq.backends.fetch import Fetcher
from cloudq.backends.open import open_backend
from cloudq.backends.tiered import TieredBackend
from cloudq.clock import SYSTEM_CLOCK, Clock
from cloudq.errors import (
    CloudQError,
    DecodeError,
    ImproperlyConfigured,
    MessageTooLarge,
    PayloadDamaged,
    PayloadMissing,
    PayloadRefused,
    ServiceUnavailable,
)
from cloudq.message import PayloadRef
from cloudq.url import Url

A = TypeVar("A")
T = TypeVar("T")
logger = logging.getLogger("cloudq.brokers")

#: The folder of the texts: results in the same bucket and prefix lie elsewhere and cannot be pointed to.
FOLDER: Final = "messages/"
#: Uploads, and removals, in flight at once.
THREADS: Final = 8
#: Seconds that closing waits for removals under way.
CLOSE_GRACE: Final = 5.0
#: What may follow the folder in a reference: no '..', no escapes, nothing that two stores read differently.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
_LONGEST_NAME: Final = 512


class Place(Protocol):
    """Where texts lie. ``base`` is what every uri of the place begins with."""

    base: str

    def put(self, name: str, data: bytes, expires_at: float) -> None: ...

    def get(self, name: str, most: int) -> bytes | None:
        """The first ``most`` bytes; None when there is none."""
        ...

    def remove(self, name: str) -> None: ...

    def close(self) -> None: ...


class BucketPlace:
    """A folder of a bucket, where texts lie as they are."""

    def __init__(self, bucket: Bucket, prefix: str) -> None:
        self._bucket = bucket
        self._folder = prefix + FOLDER
        self.base = f"{bucket.place}/{self._folder}"

    def put(self, name: str, data: bytes, expires_at: float) -> None:
        try:
            self._bucket.perform(Put(self._folder + name, data, expires_at))
        except (TryAgain, Mismatch) as error:
            raise ServiceUnavailable(f"{self.base}{name} was not written: {error}") from error

    def get(self, name: str, most: int) -> bytes | None:
        blob: Blob | None = self._bucket.perform(Get(self._folder + name, most))
        return None if blob is None else blob.data

    def remove(self, name: str) -> None:
        self._bucket.perform(Remove(self._folder + name))

    def close(self) -> None:
        self._bucket.close()


class EntryPlace:
    """A folder of any other results store, where texts are entries that expire."""

    def __init__(self, backend: ResultBackend, url: Url) -> None:
        self._backend = backend
        self.base = f"{replace(url, query={})}/{FOLDER}"

    def put(self, name: str, data: bytes, expires_at: float) -> None:
        self._backend.write(FOLDER + name, data, expires_at=expires_at)

    def get(self, name: str, most: int) -> bytes | None:
        entry = self._backend.read(FOLDER + name)
        return None if entry is None else entry.value[:most]

    def remove(self, name: str) -> None:
        self._backend.delete(FOLDER + name)

    def close(self) -> None:
        self._backend.close()


def open_place(url_text: str, clock: Clock = SYSTEM_CLOCK, aws_driver: str | None = None) -> Place:
    """The place a URL names: any results store's, but for tiered ones. Makes no call to any service."""
    backend = open_backend(url_text, clock, aws_driver)
    if isinstance(backend, TieredBackend):
        raise ImproperlyConfigured(f"large messages are kept in one store, not in tiers: {backend.url}")
    if isinstance(backend, BlobBackend):
        return BucketPlace(backend.bucket, backend.prefix)
    return EntryPlace(backend, Url.parse(url_text))


class ClaimCheck:
    """Texts kept in the first of ``places`` and read from any of them. Safe in many threads.

    ``most`` is the largest text in bytes, ``expires`` how long one may lie, in seconds.
    """

    def __init__(
        self, places: Sequence[Place], *, most: int, expires: float, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._places = list(places)
        self._most = most
        self._expires = expires
        self._clock = clock
        self._fetcher = Fetcher(THREADS, "cloudq-upload")
        self._remover: tuple[int, ThreadPoolExecutor] | None = None
        self._removals: set[Any] = set()

    @property
    def url(self) -> str:
        """Where texts are written, for errors and logs."""
        return self._places[0].base

    def check_size(self, size: int) -> None:
        """Raise MessageTooLarge for a text of more bytes than are read."""
        if size > self._most:
            raise MessageTooLarge(
                f"a message has {size} bytes, and broker_large_messages_max is {self._most}: send a reference "
                "to the data instead of the data, or raise the setting for senders and workers"
            )

    def store(self, text: str, *, due: float | None = None) -> PayloadRef:
        """Keep a text; what is returned reads it (``load``) and removes it (``discard``).

        ``due`` (seconds since the epoch): it is not wanted before, so it is kept that much longer.
        Raises MessageTooLarge and OperationalError; called again it keeps the text once more.
        """
        data = text.encode("utf-8")
        self.check_size(len(data))
        name = os.urandom(16).hex()
        expires_at = max(self._clock.time(), due or 0.0) + self._expires
        self._places[0].put(name, data, expires_at)
        return PayloadRef(self._places[0].base + name, len(data), hashlib.sha256(data).hexdigest())

    def load(self, ref: PayloadRef) -> str:
        """The text. No more than its announced length is ever fetched.

        Raises PayloadRefused (a place that is not ours), PayloadMissing, PayloadDamaged, DecodeError (not
        UTF-8): none of them heals; and OperationalError when the store is away or denies us.
        """
        place, name = self._find(ref)
        if ref.size > self._most:
            raise PayloadRefused(
                f"$.ref.size is {ref.size}, and broker_large_messages_max is {self._most}: raise it for this app"
            )
        data = self._get(place, name, ref)
        if data is None:
            raise PayloadMissing(
                f"{ref.uri} is not there: it was removed with an earlier copy of this message, by hand, or by a "
                "lifecycle rule that is shorter than the queue's retention"
            )
        if len(data) != ref.size:
            size = f"more than {ref.size}" if len(data) > ref.size else str(len(data))
            raise PayloadDamaged(f"{ref.uri} has {size} bytes, the message says {ref.size}")
        if hashlib.sha256(data).hexdigest() != ref.sha256:
            raise PayloadDamaged(f"{ref.uri} is not what was sent: its SHA-256 differs from the message's")
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DecodeError(f"{ref.uri} is not UTF-8: {error}") from error

    def _get(self, place: Place, name: str, ref: PayloadRef) -> bytes | None:
        """What the place has. An error nobody foresaw is the place's trouble, not the message's: it must not be buried
        for it."""
        try:
            return place.get(name, ref.size + 1)
        except (CloudQError, MemoryError):
            raise
        except Exception as error:
            logger.exception("reading %s failed in a way nobody foresaw", ref.uri)
            raise ServiceUnavailable(
                f"{ref.uri} could not be read: {type(error).__name__}: {error}"
            ) from error

    def discard(self, ref: PayloadRef) -> None:
        """Remove a text; one that is gone already is no error. Raises PayloadRefused, OperationalError."""
        place, name = self._find(ref)
        place.remove(name)

    def map(self, call: Callable[[A], T], arguments: Iterable[A]) -> list[T]:
        """``call`` on each, several at a time."""
        return self._fetcher.map(call, arguments)

    def forget(self, bodies: Iterable[str]) -> None:
        """The messages with these bodies are deleted: remove what they point to, in the background.

        A removal that fails is logged and left to the lifecycle rule: the message is gone already.
        """
        for body in bodies:
            ref = ref_of(body)
            if ref is not None:
                removal = self._removing().submit(self._discard_quietly, ref)
                self._removals.add(removal)
                removal.add_done_callback(self._removals.discard)

    def check(self) -> None:
        """Look once at each place; raises what a user can do something about (OperationalError)."""
        for place in self._places:
            place.get("cloudq-worker-start", 1)

    def close(self) -> None:
        """Wait a moment for removals under way, then give back connections. Idempotent."""
        mine, self._remover = self._remover, None
        if mine is not None and mine[0] == os.getpid():
            wait(list(self._removals), CLOSE_GRACE)
            mine[1].shutdown(wait=False, cancel_futures=True)
        self._fetcher.close()
        for place in self._places:
            place.close()

    def _find(self, ref: PayloadRef) -> tuple[Place, str]:
        for place in self._places:
            name = ref.uri.removeprefix(place.base)
            if name != ref.uri and len(name) <= _LONGEST_NAME and _NAME.fullmatch(name):
                return place, name
        known = " or ".join(place.base for place in self._places)
        raise PayloadRefused(
            f"$.ref.uri {ref.uri[:200]!r} is not followed: this app reads from {known} "
            "(broker_large_messages, broker_large_messages_also_read)"
        )

    def _discard_quietly(self, ref: PayloadRef) -> None:
        try:
            self.discard(ref)
        except CloudQError as error:
            logger.warning("%s was not removed, and is left to the lifecycle rule: %s", ref.uri[:200], error)

    def _removing(self) -> ThreadPoolExecutor:
        mine = self._remover
        if mine is None or mine[0] != os.getpid():  # threads do not come along into a forked child
            mine = self._remover = (os.getpid(), ThreadPoolExecutor(THREADS, "cloudq-removal"))
            self._removals = set()
        return mine[1]


def ref_of(body: str) -> PayloadRef | None:
    """What a message's body points to, if it does; signed or not, and never an error."""
    if "sha256" not in body:
        return None
    try:
        document = msgspec.json.decode(body)
        if isinstance(document, dict) and isinstance(document.get("signed"), str):
            document = msgspec.json.decode(document["signed"])
        found = document.get("ref") if isinstance(document, dict) else None
        return None if found is None else PayloadRef.read(found)
    except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError):
        return None
