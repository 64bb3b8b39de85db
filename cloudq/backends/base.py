"""The contract of a results store: a small key-value store with conditional writes.

Keys are text, at most 900 UTF-8 bytes, made of segments joined by ``/``; no segment is empty,
``.`` or ``..``. A key's *folder* is everything up to its last ``/``. Values are bytes.

Expiry is data: once ``expires_at`` has passed an entry counts as absent in every verb, even while
the store still holds it (DynamoDB's TTL and lifecycle rules may take days to delete).

Implementations inherit nothing; ``cloudq.testing.contracts`` proves them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NewType, Protocol, TypeAlias

#: Opaque to everyone but the store that made it: compare for equality, hand it back, nothing else.
Version = NewType("Version", str)

#: Longest key in UTF-8 bytes: S3, GCS and Azure allow 1,024, less room for a prefix.
MAX_KEY_BYTES: Final = 900


@dataclass(frozen=True, slots=True)
class Always:
    """Write whatever is there."""


@dataclass(frozen=True, slots=True)
class Absent:
    """Write only if nothing (or only an expired entry) is there."""


@dataclass(frozen=True, slots=True)
class Matches:
    """Write only if the entry still has this version."""

    version: Version


Condition: TypeAlias = Always | Absent | Matches
ALWAYS: Final = Always()
ABSENT: Final = Absent()


@dataclass(frozen=True, slots=True)
class Entry:
    """What a store holds under a key. ``expires_at`` is seconds since the epoch, or None."""

    value: bytes
    version: Version
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class BackendCapabilities:
    """What a store can do, known before anything is tried."""

    #: Largest value in bytes, or None when only the service's own (gigabytes) applies.
    max_value: int | None = None
    #: ``write(when=ABSENT | Matches)`` and ``delete(when=Matches)`` are honoured.
    conditional: bool = True
    #: Writes per second that one key stands (GCS: 1), or None.
    writes_per_key: float | None = None
    #: ``Conflict.present`` is filled without a further call.
    conflict_has_entry: bool = False
    #: ``keys`` may name entries that have expired but were not deleted yet (S3's listings do not tell).
    keys_may_list_expired: bool = False
    #: The most keys that ``read_many`` fetches in one call of the service.
    batch_read: int = 1
    #: Where the data lives: "process", "machine" or "cloud".
    reach: str = "cloud"


class ResultBackend(Protocol):
    """A results store. Every verb may raise the errors named here and in ``OperationalError``.

    All methods may be called from several threads at once.
    """

    @property
    def capabilities(self) -> BackendCapabilities: ...

    @property
    def url(self) -> str:
        """Where this is, for logs and errors; without credentials."""
        ...

    def read(self, key: str) -> Entry | None:
        """The entry under ``key`` (strongly consistent), or None."""
        ...

    def read_many(self, keys: Iterable[str]) -> dict[str, Entry]:
        """The entries that exist; absent keys are left out. Strongly consistent."""
        ...

    def write(
        self, key: str, value: bytes, when: Condition = ALWAYS, expires_at: float | None = None
    ) -> Version:
        """Store ``value`` and return its version; a new version at every write.

        Raises Conflict when the condition is not met, ValueTooLarge over ``max_value``.
        """
        ...

    def delete(self, key: str, when: Condition = ALWAYS) -> None:
        """Remove the entry. With ALWAYS an absent key is no error.

        ``Matches`` raises Conflict when the version differs or nothing is there; ``ABSENT``
        makes no sense here and raises ValueError.
        """
        ...

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys directly in the folder ``prefix`` (ends with ``/``), sorted, not recursive.

        Expired entries are left out, unless ``capabilities.keys_may_list_expired``: then what is
        named may turn out absent when it is read.
        Strongly consistent for folders two or more levels deep (``join/ID/``); a top-level
        folder (``task/``) may cost a scan of the whole store, page by page.
        """
        ...

    def close(self) -> None:
        """Give back connections. Idempotent; the store is not used afterwards."""
        ...


def check_key(key: str) -> str:
    """Return ``key``, or raise ValueError naming what is wrong with it."""
    if not key or len(key.encode("utf-8", "surrogatepass")) > MAX_KEY_BYTES:
        raise ValueError(
            f"a key has 1 to {MAX_KEY_BYTES} UTF-8 bytes, got {len(key)} characters: {key[:60]!r}"
        )
    for segment in key.split("/"):
        if segment in ("", ".", ".."):
            raise ValueError(f"a key's segments are not empty, '.' or '..': {key!r}")
    return key


def check_folder(prefix: str) -> str:
    """Return ``prefix``, or raise ValueError: a folder is a key followed by ``/``."""
    if not prefix.endswith("/"):
        raise ValueError(f"a folder ends with '/': {prefix!r}")
    check_key(prefix[:-1])
    return prefix
