"""Task records on a results store: states only move forward, a final record never changes.

One is final until a worker says otherwise: that of ``revoke()`` without ``terminate`` (``Record.asked``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final, Protocol
from urllib.parse import quote

from cloudq import states
from cloudq.backends.base import ABSENT, Condition, Entry, Matches, ResultBackend, Version
from cloudq.clock import SYSTEM_CLOCK, Clock
from cloudq.errors import Conflict, CorruptRecord, OperationalError
from cloudq.results import failure, membership
from cloudq.results import record as documents
from cloudq.results.record import Record

#: A record that this many writers keep changing under our hands is given up on.
_ATTEMPTS = 20


class _Pack(Protocol):
    def __call__(self, value: Any, serializer: str | None = None) -> Any: ...


#: Ids that percent-encoding leaves as they are: nearly all.
_is_plain: Final = re.compile("[A-Za-z0-9_.~-]*").fullmatch


def task_key(task_id: str) -> str:
    """The key of a task's record; ids chosen by users may hold any character."""
    return "task/" + (task_id if _is_plain(task_id) else quote(task_id, safe=""))


class ResultStore:
    """Reads and writes records. ``expires`` is seconds that a record is kept, or None.

    ``pack(value, serializer)`` makes a value JSON-able, None being the usual serializer;
    ``unpack`` is its opposite. ``accept`` says of which modules exceptions are rebuilt.
    """

    def __init__(
        self,
        backend: ResultBackend,
        pack: _Pack,
        unpack: Callable[[Any], Any],
        *,
        expires: float | None = None,
        clock: Clock = SYSTEM_CLOCK,
        accept: failure.Accept = failure.anywhere,
    ) -> None:
        self.backend = backend
        self.accept = accept
        self._pack = pack
        self._unpack = unpack
        self._expires = expires
        self._clock = clock

    def read(self, task_id: str) -> Record | None:
        """The record, or None when nothing was ever written (or it expired)."""
        found = self.read_versioned(task_id)
        return found[0] if found else None

    def read_versioned(self, task_id: str) -> tuple[Record, Version] | None:
        """The record and the version to write over it."""
        key = task_key(task_id)
        entry = self.backend.read(key)
        return (self._load(entry, key), entry.version) if entry is not None else None

    def read_many(self, task_ids: Iterable[str]) -> dict[str, Record]:
        """The records that exist, by task id. Raises CorruptRecord if one of them cannot be read."""
        found: dict[str, Record] = {}
        for task_id, record in self.read_each(task_ids).items():
            if isinstance(record, CorruptRecord):
                raise record
            found[task_id] = record
        return found

    def read_each(self, task_ids: Iterable[str]) -> dict[str, Record | CorruptRecord]:
        """As ``read_many``; a record that cannot be read is given as its error, beside the others."""
        by_key = {task_key(each): each for each in task_ids}
        try:
            entries: Mapping[str, Entry | CorruptRecord] = self.backend.read_many(by_key)
        except CorruptRecord:  # the store itself cannot read one of them: which one?
            entries = self._one_by_one(by_key)
        found: dict[str, Record | CorruptRecord] = {}
        for key, entry in entries.items():
            try:
                found[by_key[key]] = entry if isinstance(entry, CorruptRecord) else self._load(entry, key)
            except CorruptRecord as error:
                found[by_key[key]] = error
        return found

    def _one_by_one(self, keys: Iterable[str]) -> dict[str, Entry | CorruptRecord]:
        found: dict[str, Entry | CorruptRecord] = {}
        for key in keys:
            try:
                entry = self.backend.read(key)
            except CorruptRecord as error:
                found[key] = error
            else:
                if entry is not None:
                    found[key] = entry
        return found

    def finish(
        self, record: Record, known: Version | None = None, *, serializer: str | None = None
    ) -> Record:
        """Write a final record unless a final one is there (that a caller only ``asked`` for counts not);
        return the one that stands.

        One conditional write when nothing is there yet (decision 6), or when ``known`` is the
        version of the unfinished record that is there. ``serializer`` writes the values of this
        record. Raises SerializationError, ValueTooLarge.
        """
        return self._forward(record, known, serializer)[0]

    def revoke(self, record: Record, *, running: bool) -> Record:
        """Write REVOKED over nothing or over a waiting retry; over a task that runs only with ``running``.

        Returns the record that stands.
        """
        free = (states.PENDING, states.RETRY)
        return self._forward(record, None, None, lambda found: not (running or found.state in free))[0]

    def progress(self, record: Record, known: Version | None = None) -> tuple[Record, Version | None]:
        """Write an unfinished record (STARTED, RETRY, custom) unless a later one stands.

        Returns what stands and its version. A record of an earlier try is overwritten, one of a
        later try or a final one is not.
        """
        return self._forward(record, known, None)

    def document(self, record: Record, serializer: str | None = None) -> bytes:
        """A record as it is stored, to be kept elsewhere. Raises SerializationError."""
        return documents.dump(record, partial(self._pack, serializer=serializer))

    def from_document(self, data: bytes, where: str) -> Record:
        """Read such a document. Raises CorruptRecord naming ``where``."""
        return documents.load(data, self._unpack, where, self.accept)

    def rewrite(self, record: Record) -> None:
        """Write a record over whatever is there, even a final one: a person wants it to happen again."""
        self.backend.write(task_key(record.id), self.document(record), expires_at=self._expires_at())

    def forget(self, task_id: str) -> None:
        """Delete the record."""
        self.backend.delete(task_key(task_id))

    def keep(self, key: str, value: bytes, ttl: float) -> None:
        """Write a document that is no record, over one that is there. ``ttl`` is seconds."""
        self.backend.write(key, value, expires_at=self._clock.time() + ttl)

    # --- groups -------------------------------------------------------------------------------

    def save_group(self, group: membership.Membership) -> None:
        """Remember which tasks are in a group, as long as results are kept."""
        membership.save(self.backend, group, self._expires_at())

    def read_group(self, group_id: str) -> membership.Membership | None:
        """What was saved, or None."""
        return membership.read(self.backend, group_id)

    def forget_group(self, group_id: str) -> None:
        """Delete what was saved. The tasks' records stay."""
        membership.delete(self.backend, group_id)

    # --- parts --------------------------------------------------------------------------------

    def _expires_at(self) -> float | None:
        return None if self._expires is None else self._clock.time() + self._expires

    def _forward(
        self,
        record: Record,
        known: Version | None,
        serializer: str | None,
        stays: Callable[[Record], bool] = lambda found: False,
    ) -> tuple[Record, Version | None]:
        key = task_key(record.id)
        value = documents.dump(record, partial(self._pack, serializer=serializer))
        expires_at = self._expires_at()
        when: Condition = ABSENT if known is None else Matches(known)
        for _ in range(_ATTEMPTS):
            try:
                return record, self.backend.write(key, value, when, expires_at)
            except Conflict as conflict:
                present = conflict.present if conflict.present is not None else self.backend.read(key)
            if present is None:
                when = ABSENT
                continue
            standing = self._load(present, key)
            ended = standing.final and (not standing.asked or not record.final or record.asked)
            if ended or stays(standing) or (not record.final and standing.retries > record.retries):
                return standing, present.version
            when = Matches(present.version)
        raise OperationalError(
            f"the record {key} in {self.backend.url} kept changing; gave up after {_ATTEMPTS} tries"
        )

    def _load(self, entry: Entry, key: str) -> Record:
        return documents.load(entry.value, self._unpack, f"{key} in {self.backend.url}", self.accept)
