"""A results store on a bucket of objects: S3, Google Cloud Storage and Azure Blob share this.

The operations are generators free of I/O: they yield what the bucket is to do (``Get``, ``Put``,
``Remove``, or ``Pause``) and are sent the answers, so each bucket and each driver (threads,
asyncio) performs them its own way. ``tag`` is the bucket's word for one state of an object: an
ETag, a generation.

A version is the tag with the expiry in front, so that a condition on an expired entry fails
without a look at it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from cloudq.backends import names
from cloudq.backends.base import (
    ABSENT,
    ALWAYS,
    Absent,
    BackendCapabilities,
    Condition,
    Entry,
    Matches,
    Version,
    check_folder,
    check_key,
)
from cloudq.backends.document import Document, dump, load, new_nonce
from cloudq.backends.fetch import Fetcher
from cloudq.clock import SYSTEM_CLOCK, Clock
from cloudq.errors import CloudQError, Conflict, ServiceUnavailable
from cloudq.retry import backoff

T = TypeVar("T")

#: Tries of one conditional write, and the waits between them (seconds: from, to), while others
#: change the object under our hands or the store asks to try again.
ATTEMPTS: Final = 10
BACKOFF: Final = (0.05, 2.0)


@dataclass(frozen=True, slots=True)
class Get:
    """Read the object; the answer is a Blob, or None when there is none. No more than its first ``most``
    bytes are fetched, when given (then at least 1)."""

    name: str
    most: int | None = None


@dataclass(frozen=True, slots=True)
class Put:
    """Write the object; the answer is its new tag. ``when``: "always", "absent", or "tag" (only
    over ``tag``). ``expires_at`` is for the store's own listing and lifecycle."""

    name: str
    data: bytes
    expires_at: float | None = None
    when: str = "always"
    tag: str = ""


@dataclass(frozen=True, slots=True)
class Remove:
    """Delete the object, or with ``tag`` only that state of it. An absent one is no error without
    a tag, and a Mismatch with one."""

    name: str
    tag: str | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing for so many seconds; the answer is None."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Blob:
    """An object's content and its tag."""

    data: bytes
    tag: str


Request: TypeAlias = Get | Put | Remove | Wait
#: What a generator of this module is: requests out, answers in.
Steps: TypeAlias = Generator[Request, Any, T]


class Mismatch(CloudQError):
    """The bucket says that the condition of a Put or Remove is not met."""


class TryAgain(CloudQError):
    """The bucket says that another change was under way: neither done nor refused (S3's 409)."""


@dataclass(frozen=True, slots=True)
class Listed:
    """An object of a listing. ``expires_at`` as the listing gives it, None when it does not."""

    name: str
    expires_at: float | None = None


class Bucket(Protocol):
    """One bucket or container of a cloud's. Errors are cloudq's own, besides those above."""

    @property
    def place(self) -> str:
        """``s3://bucket``, for errors."""
        ...

    def perform(self, request: Request) -> Any: ...

    def list(self, prefix: str) -> Iterator[Listed]:
        """The objects directly under ``prefix``, which ends with ``/``."""
        ...

    def close(self) -> None: ...


def join_version(tag: str, expires_at: float | None) -> Version:
    """A version from its parts; ``repr`` brings a float back exactly."""
    return Version(f"{'' if expires_at is None else repr(float(expires_at))};{tag}")


def split_version(version: Version) -> tuple[str, float | None] | None:
    """The tag and the expiry of a version, or None when it is not one of ours."""
    expiry, separator, tag = version.partition(";")
    if not separator or not tag:
        return None
    try:
        return tag, float(expiry) if expiry else None
    except ValueError:
        return None


class BlobOperations:
    """What to ask of a bucket, and how to read its answers; no I/O, no waiting."""

    def __init__(self, place: str, prefix: str, clock: Clock) -> None:
        self._place = place
        self._prefix = prefix
        self._clock = clock

    def _name(self, key: str) -> str:
        return names.to_object(self._prefix, check_key(key))

    def _look(self, name: str) -> Steps[tuple[Document | None, str]]:
        blob: Blob | None = yield Get(name)
        if blob is None:
            return None, ""
        return load(blob.data, f"{self._place}/{name}"), blob.tag

    def _entry(self, document: Document | None, tag: str) -> Entry | None:
        if document is None or not document.alive(self._clock.time()):
            return None
        return Entry(document.value, join_version(tag, document.expires_at), document.expires_at)

    def read(self, key: str) -> Steps[Entry | None]:
        """See ``ResultBackend.read``: one request."""
        return self._entry(*(yield from self._look(self._name(key))))

    def write(
        self, key: str, value: bytes, when: Condition = ALWAYS, expires_at: float | None = None
    ) -> Steps[Version]:
        """See ``ResultBackend.write``: one request unless the condition is not met."""
        document = Document(new_nonce(), value, expires_at)
        put = Put(self._name(key), dump(document), expires_at)
        if isinstance(when, Matches):
            put = _over(put, (yield from self._tag(key, put.name, when)))
        elif when == ABSENT:
            put = _if_absent(put)
        waits = backoff(*BACKOFF)
        for _ in range(ATTEMPTS):
            try:
                return join_version((yield put), expires_at)
            except TryAgain:
                yield Wait(next(waits))
                continue
            except Mismatch as error:
                there, tag = yield from self._look(put.name)
                if there is not None and there.nonce == document.nonce:
                    # The bucket's client tried twice: the first try was done, its reply was lost.
                    return join_version(tag, expires_at)
                present = self._entry(there, tag)
                if present is not None or isinstance(when, Matches):
                    raise Conflict(key, present) from error
            # Nothing, or something expired, is there: ABSENT is met, by writing over exactly that.
            put = _if_absent(put) if there is None else _over(put, tag)
        raise self._gave_up(key)

    def delete(self, key: str, when: Condition = ALWAYS) -> Steps[None]:
        """See ``ResultBackend.delete``: one request unless the condition is not met."""
        if isinstance(when, Absent):
            raise ValueError("delete(when=ABSENT) makes no sense: there would be nothing to delete")
        name = self._name(key)
        remove = Remove(name)
        if isinstance(when, Matches):
            remove = Remove(name, (yield from self._tag(key, name, when)))
        waits = backoff(*BACKOFF)
        for _ in range(ATTEMPTS):
            try:
                yield remove
                return
            except TryAgain:
                yield Wait(next(waits))
            except Mismatch as error:
                raise Conflict(key, self._entry(*(yield from self._look(name)))) from error
        raise self._gave_up(key)

    def _tag(self, key: str, name: str, when: Matches) -> Steps[str]:
        """The tag that the object must still have; Conflict when the entry has expired since."""
        parts = split_version(when.version)
        if parts is None or (parts[1] is not None and parts[1] <= self._clock.time()):
            raise Conflict(key, self._entry(*(yield from self._look(name))))
        return parts[0]

    def _gave_up(self, key: str) -> ServiceUnavailable:
        return ServiceUnavailable(
            f"{key!r} in {self._place} is being changed by others: gave up after {ATTEMPTS} tries; try later"
        )


def _if_absent(put: Put) -> Put:
    return Put(put.name, put.data, put.expires_at, "absent")


def _over(put: Put, tag: str) -> Put:
    return Put(put.name, put.data, put.expires_at, "tag", tag)


class BlobBackend:
    """``ResultBackend`` on a bucket."""

    def __init__(
        self,
        bucket: Bucket,
        prefix: str,
        url: str,
        capabilities: BackendCapabilities,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.bucket = bucket
        #: What names of objects begin with: empty, or ending in a slash.
        self.prefix = prefix
        self._prefix = prefix
        self._url = url
        self._capabilities = capabilities
        self._clock = clock
        self._fetcher = Fetcher()
        self.operations = BlobOperations(bucket.place, prefix, clock)

    @property
    def capabilities(self) -> BackendCapabilities:
        return self._capabilities

    @property
    def url(self) -> str:
        return self._url

    def read(self, key: str) -> Entry | None:
        return self._run(self.operations.read(key))

    def read_many(self, keys: Iterable[str]) -> dict[str, Entry]:
        wanted = [check_key(key) for key in dict.fromkeys(keys)]
        entries = self._fetcher.map(self.read, wanted)
        return {key: entry for key, entry in zip(wanted, entries, strict=True) if entry is not None}

    def write(
        self, key: str, value: bytes, when: Condition = ALWAYS, expires_at: float | None = None
    ) -> Version:
        return self._run(self.operations.write(key, value, when, expires_at))

    def delete(self, key: str, when: Condition = ALWAYS) -> None:
        self._run(self.operations.delete(key, when))

    def keys(self, prefix: str) -> Iterator[str]:
        """See ``ResultBackend.keys``. Reads the whole listing before the first key: names are
        listed in the order of their escaped form."""
        folder = names.to_object(self._prefix, check_folder(prefix)[:-1]) + "/"
        now = self._clock.time()
        return iter(
            sorted(
                names.from_object(self._prefix, each.name)
                for each in self.bucket.list(folder)
                if each.expires_at is None or each.expires_at > now
            )
        )

    def close(self) -> None:
        self._fetcher.close()
        self.bucket.close()

    def _run(self, steps: Steps[T]) -> T:
        try:
            request = next(steps)
            while True:
                try:
                    answer = self._perform(request)
                except CloudQError as error:
                    request = steps.throw(error)
                else:
                    request = steps.send(answer)
        except StopIteration as stop:
            result: T = stop.value
            return result

    def _perform(self, request: Request) -> Any:
        if isinstance(request, Wait):
            self._clock.sleep(request.seconds)
            return None
        return self.bucket.perform(request)
