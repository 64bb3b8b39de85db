"""Two stores as one: small values in the first, large ones in the second.

A large value is written to the second store under a name nobody else has, then a *pointer* (where,
how long, SHA-256) to the first, under the key and under the condition. So the first store alone
decides every race, and a crash between two steps leaves at worst a blob that nobody points to: it
expires with its value, or by the bucket's lifecycle rule. The blob of a pointer that was
overwritten or deleted is removed afterwards.

A pointer whose blob is gone raises CorruptRecord; it is not "absent", as the record was promised.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from cloudq.backends.base import (
    ABSENT,
    ALWAYS,
    BackendCapabilities,
    Condition,
    Entry,
    Matches,
    ResultBackend,
    Version,
    check_key,
)
from cloudq.errors import CloudQError, Conflict, CorruptRecord

logger = logging.getLogger("cloudq.backends")

#: Values over so many bytes go to the second store. DynamoDB bills a write by the kilobyte: at
#: 64 KiB a write costs about seven times an S3 PUT, at 8 KiB the same, and S3 answers later.
LARGE_OVER: Final = 65_536
#: The folder of large values in the second store: ``large/HASH OF THE KEY/NONCE``.
FOLDER: Final = "large"
#: Seconds that a blob outlives its pointer, for readers on their way and clocks that differ.
BLOB_MARGIN: Final = 3_600.0
#: Looks at a record whose blob is replaced under the reader's hands; and tries of an
#: unconditional write to replace exactly what it has seen.
ATTEMPTS: Final = 8

#: A pointer begins with this; a value that begins so itself is stored with RAW in front.
_POINTER: Final = b"\x00cloudq-pointer\x01"
_RAW: Final = b"\x00cloudq-value\x01"
_SEPARATOR: Final = "|"


@dataclass(frozen=True, slots=True)
class Pointer:
    """Where a large value lies. ``uri`` is for people, ``key`` for the second store."""

    uri: str
    key: str
    size: int
    sha256: str

    def dump(self) -> bytes:
        fields = {"uri": self.uri, "key": self.key, "size": self.size, "sha256": self.sha256}
        return _POINTER + json.dumps(fields, separators=(",", ":")).encode()


def wrap(value: bytes) -> bytes:
    """A small value as the first store holds it: as it is, unless it could be taken for a pointer."""
    return _RAW + value if value.startswith((_POINTER, _RAW)) else value


def unwrap(stored: bytes, where: str) -> bytes | Pointer:
    """The value, or the pointer to it. Raises CorruptRecord naming ``where``."""
    if stored.startswith(_RAW):
        return stored[len(_RAW) :]
    if not stored.startswith(_POINTER):
        return stored
    try:
        fields = json.loads(stored[len(_POINTER) :])
        return Pointer(str(fields["uri"]), str(fields["key"]), int(fields["size"]), str(fields["sha256"]))
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptRecord(f"{where}: the pointer to a large value cannot be read: {error!r}") from error


class TieredBackend:
    """``ResultBackend`` on two others. ``large_over`` in bytes."""

    def __init__(self, small: ResultBackend, large: ResultBackend, *, large_over: int = LARGE_OVER) -> None:
        self._small = small
        self._large = large
        limit = small.capabilities.max_value
        self._large_over = large_over if limit is None else min(large_over, limit)

    @property
    def capabilities(self) -> BackendCapabilities:
        return replace(self._small.capabilities, max_value=self._large.capabilities.max_value)

    @property
    def url(self) -> str:
        return f"{self._small.url}+{self._large.url}"

    # --- reading ------------------------------------------------------------------------------

    def read(self, key: str) -> Entry | None:
        entry = self._small.read(key)
        return None if entry is None else self._resolve(key, entry)

    def read_many(self, keys: Iterable[str]) -> dict[str, Entry]:
        entries = self._small.read_many(keys)
        pointers = {key: self._pointer(key, entry) for key, entry in entries.items()}
        blobs = self._large.read_many([each.key for each in pointers.values() if each is not None])
        found: dict[str, Entry] = {}
        for key, entry in entries.items():
            pointer = pointers[key]
            blob = blobs.get(pointer.key) if pointer is not None else None
            # Without its blob the record may just have been replaced: resolving looks again.
            full = self._resolve(key, entry) if blob is None else self._full(key, entry, pointer, blob)
            if full is not None:
                found[key] = full
        return found

    def _resolve(self, key: str, entry: Entry) -> Entry | None:
        """The entry with its value, wherever that is; None when the record went away meanwhile."""
        looked_at: Entry | None = entry
        for _ in range(ATTEMPTS):
            if looked_at is None:
                return None
            pointer = self._pointer(key, looked_at)
            blob = self._large.read(pointer.key) if pointer is not None else None
            if pointer is None or blob is not None:
                return self._full(key, looked_at, pointer, blob)
            again = self._small.read(key)
            if again is not None and again.version == looked_at.version:
                raise CorruptRecord(
                    f"{self._where(key)}: its large value {pointer.key!r} is missing in {self._large.url}: "
                    "was it deleted by hand, or by a lifecycle rule shorter than result_expires?"
                )
            looked_at = again
        raise CorruptRecord(f"{self._where(key)}: the record changed at each of {ATTEMPTS} looks")

    def _full(self, key: str, entry: Entry, pointer: Pointer | None, blob: Entry | None) -> Entry:
        version = _join(pointer, entry.version)
        if pointer is None or blob is None:
            value = unwrap(entry.value, self._where(key))
            assert isinstance(value, bytes)
            return Entry(value, version, entry.expires_at)
        if len(blob.value) != pointer.size or hashlib.sha256(blob.value).hexdigest() != pointer.sha256:
            raise CorruptRecord(
                f"{self._where(key)}: its large value {pointer.key!r} in {self._large.url} is not what was "
                f"written ({len(blob.value)} bytes for {pointer.size}, or another SHA-256)"
            )
        return Entry(blob.value, version, entry.expires_at)

    def _pointer(self, key: str, entry: Entry) -> Pointer | None:
        value = unwrap(entry.value, self._where(key))
        return value if isinstance(value, Pointer) else None

    def _where(self, key: str) -> str:
        return f"{key!r} in {self._small.url}"

    # --- writing ------------------------------------------------------------------------------

    def write(
        self, key: str, value: bytes, when: Condition = ALWAYS, expires_at: float | None = None
    ) -> Version:
        check_key(key)
        stored, pointer = wrap(value), None
        if len(stored) > self._large_over:
            pointer = self._upload(key, value, expires_at)
            stored = pointer.dump()
        try:
            version, replaced = self._put(key, stored, when, expires_at)
        except Conflict as conflict:
            standing = self._standing(key, pointer, conflict)
            if standing is None or pointer is None or standing.value != stored:
                if pointer is not None:
                    self._discard(pointer.key)
                raise self._conflict(key, conflict) from conflict
            # Our own pointer: an earlier try inside the first store got there, its reply did not.
            version, replaced = standing.version, _blob_of(when)
        if replaced is not None and (pointer is None or replaced != pointer.key):
            self._discard(replaced)
        return _join(pointer, version)

    def _standing(self, key: str, pointer: Pointer | None, conflict: Conflict) -> Entry | None:
        """What met the condition; looked up only where a blob's removal depends on it."""
        present: Entry | None = conflict.present
        return self._small.read(key) if present is None and pointer is not None else present

    def _upload(self, key: str, value: bytes, expires_at: float | None) -> Pointer:
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        blob = f"{FOLDER}/{digest}/{os.urandom(16).hex()}"
        self._large.write(blob, value, ALWAYS, None if expires_at is None else expires_at + BLOB_MARGIN)
        return Pointer(self._large.url, blob, len(value), hashlib.sha256(value).hexdigest())

    def _put(
        self, key: str, stored: bytes, when: Condition, expires_at: float | None
    ) -> tuple[Version, str | None]:
        """Write to the first store; the new version, and the blob of what was replaced."""
        if when != ALWAYS or not self._small.capabilities.conditional:
            return self._small.write(key, stored, _inner(when), expires_at), _blob_of(when)
        seen: Entry | None = None
        for _ in range(ATTEMPTS):
            # The blob that becomes useless is known only if we replace exactly what we saw.
            seen = self._small.read(key)
            exact: Condition = ABSENT if seen is None else Matches(seen.version)
            try:
                return self._small.write(key, stored, exact, expires_at), self._blob_in(key, seen)
            except Conflict:
                continue
        logger.warning(
            "%s is written by many at once; a large value may stay until it expires", self._where(key)
        )
        return self._small.write(key, stored, ALWAYS, expires_at), None

    def delete(self, key: str, when: Condition = ALWAYS) -> None:
        if when != ALWAYS or not self._small.capabilities.conditional:
            try:
                self._small.delete(key, _inner(when))
            except Conflict as conflict:
                raise self._conflict(key, conflict) from conflict
            if (blob := _blob_of(when)) is not None:
                self._discard(blob)
            return
        for _ in range(ATTEMPTS):
            seen = self._small.read(key)
            if seen is None:
                break
            try:
                self._small.delete(key, Matches(seen.version))
            except Conflict:
                continue
            if (blob := self._blob_in(key, seen)) is not None:
                self._discard(blob)
            return
        self._small.delete(key, ALWAYS)

    def _blob_in(self, key: str, entry: Entry | None) -> str | None:
        try:
            pointer = None if entry is None else self._pointer(key, entry)
        except CorruptRecord:
            logger.warning("%s held a pointer that cannot be read; its large value stays", self._where(key))
            return None
        return None if pointer is None else pointer.key

    def _discard(self, blob: str) -> None:
        """Remove a blob that nobody points to. Not worth an error: the verb itself was done."""
        try:
            self._large.delete(blob)
        except CloudQError as error:
            logger.warning(
                "%s in %s was not removed and stays until it expires: %s", blob, self._large.url, error
            )

    def _conflict(self, key: str, conflict: Conflict) -> Conflict:
        """The first store's word, with the present entry's real value."""
        if conflict.present is None:
            return Conflict(key)
        try:
            return Conflict(key, self._resolve(key, conflict.present))
        except CloudQError as error:
            logger.warning("the entry that met a condition on %s: %s", self._where(key), error)
            return Conflict(key)

    def keys(self, prefix: str) -> Iterator[str]:
        return self._small.keys(prefix)

    def close(self) -> None:
        self._small.close()
        self._large.close()


def _join(pointer: Pointer | None, version: Version) -> Version:
    """The version of a record also names its blob, so that replacing it needs no look at it."""
    return Version(f"{'' if pointer is None else pointer.key}{_SEPARATOR}{version}")


def _inner(when: Condition) -> Condition:
    return Matches(Version(when.version.partition(_SEPARATOR)[2])) if isinstance(when, Matches) else when


def _blob_of(when: Condition) -> str | None:
    return (when.version.partition(_SEPARATOR)[0] or None) if isinstance(when, Matches) else None
