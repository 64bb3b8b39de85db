"""The ends of tasks, kept for a while: by name, state, worker and time, newest first, in pages.

Workers at level ``history`` write them in batches, a document every few seconds. What a document holds is
told by its key (which states, which worker, and Bloom filters of the names and ids), so that a search lists
an hour's keys and reads only what may fit: an index that works on every store, and costs no write.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import msgspec

from cloudq import states
from cloudq.backends.base import ResultBackend
from cloudq.clock import Clock
from cloudq.control.shown import shown
from cloudq.coordination import cas
from cloudq.monitoring.batches import Batches
from cloudq.monitoring.events import STATES, Event
from cloudq.monitoring.feed import Beat
from cloudq.results.record import Record

#: Between two documents of a worker, seconds: to a store in the cloud, and to one of this machine.
FLUSH: Final = (10.0, 1.0)
_HOUR: Final = 3600
_LETTERS: Final = {
    states.SUCCESS: "s",
    states.FAILURE: "f",
    states.RETRY: "r",
    states.REVOKED: "v",
    states.REJECTED: "j",
}
#: Characters of a worker's name in a key.
_MOST_HOST: Final = 120
#: Documents read at a time.
_READ: Final = 25
#: Bits of a Bloom filter per member, and of the whole at most.
_PER_MEMBER: Final = 8
_MOST_BITS: Final = 1_600


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One run of a task that has ended. Times are seconds since the epoch, ``runtime`` seconds.

    ``args``, ``kwargs``, ``result`` and ``exception`` are texts, shortened, without what ``monitoring_redact`` names.
    """

    id: str
    name: str
    state: str
    ended: float
    worker: str
    queue: str = ""
    retries: int = 0
    args: str = ""
    kwargs: str = ""
    result: str | None = None
    exception: str | None = None
    traceback: str | None = None
    reason: str | None = None
    runtime: float | None = None
    root_id: str | None = None
    parent_id: str | None = None

    @property
    def started(self) -> float | None:
        """When its code began; None when it never did."""
        return None if self.runtime is None else self.ended - self.runtime

    def plain(self) -> dict[str, Any]:
        """For ``--json``."""
        found: dict[str, Any] = {name: getattr(self, name) for name in self.__struct_fields__}
        return found


class Page(NamedTuple):
    """Some entries, newest first, and where the next page begins (None: there are no more)."""

    entries: list[Entry]
    next: str | None


@dataclass(frozen=True, slots=True)
class Search:
    """What to look for; everything given must fit. ``name``, ``worker`` and ``queue`` may be globs (``shop.*``);
    ``text`` is looked for in arguments, result and exception."""

    name: str | None = None
    state: str | None = None
    worker: str | None = None
    queue: str | None = None
    id: str | None = None
    root_id: str | None = None
    text: str | None = None
    since: float | None = None
    until: float | None = None

    def fits(self, entry: Entry) -> bool:
        """Is this one meant?"""
        return (
            _like(entry.name, self.name)
            and _like(entry.worker, self.worker)
            and _like(entry.queue, self.queue)
            and (self.state is None or entry.state == self.state)
            and (self.id is None or entry.id == self.id)
            and (self.root_id is None or (entry.root_id or entry.id) == self.root_id)
            and (self.since is None or entry.ended >= self.since)
            and (self.until is None or entry.ended <= self.until)
            and (self.text is None or self._says(entry, self.text.lower()))
        )

    def may_be_in(self, document: _Key) -> bool:
        """Can a document of this key hold any?"""
        plain_name = self.name is not None and not _is_glob(self.name)
        return (
            (self.state is None or _LETTERS.get(self.state, "?") in document.letters)
            and (
                self.worker is None
                or not document.host
                or fnmatch.fnmatchcase(document.host, quote(self.worker, safe="*?[]"))
            )
            and (not plain_name or _maybe(document.names, str(self.name)))
            and (self.id is None or _maybe(document.ids, self.id))
        )

    def _says(self, entry: Entry, text: str) -> bool:
        parts = (entry.args, entry.kwargs, entry.result, entry.exception)
        return any(text in each.lower() for each in parts if each)


class HistorySink:
    """A worker's end: makes entries of events and writes them. Those of the last FLUSH seconds (and feed.EVERY)
    are lost with a worker that is killed; tasks' records are not."""

    def __init__(
        self, store: ResultBackend, namespace: str, hostname: str, clock: Clock, expires: float
    ) -> None:
        self._space = quote(namespace, safe="")
        host = quote(hostname, safe="")
        self._hostname = (
            host if len(host) <= _MOST_HOST else ""
        )  # keys have an end; a search then looks inside
        self._clock = clock
        self._expires = expires
        self._beat = Beat(FLUSH[0 if store.capabilities.reach == "cloud" else 1])
        self._batches = Batches(store, self._document)
        self._number = 0

    def take(self, events: Sequence[Event]) -> None:
        for event in events:
            if (entry := entry_of(event)) is not None:
                self._batches.add(_encode(entry))

    def tick(self) -> None:
        if self._beat.due():
            self.flush()

    def close(self) -> None:
        self.flush()

    def flush(self) -> None:
        """Write what has come."""
        self._batches.flush()

    def _document(self, lines: list[bytes], dropped: int) -> tuple[str, bytes, float]:
        now = self._clock.time()
        self._number += 1
        entries = [_decode(line) for line in lines]
        letters = "".join(sorted({_LETTERS[each.state] for each in entries}))
        names, ids = _bloom({each.name for each in entries}), _bloom({each.id for each in entries})
        stamp = f"{int(now * 1000):015d}.{self._number % 1_000_000:06d}"
        key = f"{_folder(self._space, now)}{stamp}.{letters}.{names}.{ids}.{self._hostname}"
        value = b'{"entries":[' + b",".join(lines) + b'],"dropped":' + str(dropped).encode() + b"}"
        return key, value, now + self._expires


class History:
    """``app.history``: the ends of tasks in one namespace."""

    def __init__(
        self,
        store: ResultBackend,
        namespace: str,
        clock: Clock,
        expires: float,
        record: Callable[[str], Record | None] = lambda task_id: None,
    ) -> None:
        """``record`` reads a task's result record: what is known of an end that history missed."""
        self._record = record
        self._store = store
        self._space = quote(namespace, safe="")
        self._clock = clock
        self._expires = expires

    def query(
        self, limit: int = 50, cursor: str | None = None, *, documents: int | None = None, **criteria: Any
    ) -> Page:
        """Up to ``limit`` entries, newest first; ``criteria`` are those of ``Search``.

        ``cursor`` is the ``next`` of the page before. Workers' entries are in order to within a flush.
        A task asked for by its ``id`` alone that history knows nothing of (its worker was killed before it could
        write) is told as far as its result record knows. Raises ValueError for a cursor that is none.

        Once so many ``documents`` were read (each holds up to some hundred entries) the page ends with what was
        found by then, perhaps nothing; its ``next`` goes on from there. None: there is no end but history's own.
        """
        if limit < 1:
            raise ValueError(f"limit is at least 1, got {limit}")
        if documents is not None and documents < 2:  # the first may be the one where the last page ended
            raise ValueError(f"documents is at least 2, got {documents}")
        search = Search(**criteria)
        found = list(islice(self._after(search, cursor, documents), limit + 1))
        entries = [entry for entry, _ in found if entry is not None]
        if not found and cursor is None and search == Search(id=search.id) and search.id is not None:
            return Page(self._missed(search.id), None)
        if len(found) > limit:  # the place of the last one shown: the next page begins behind it
            return Page(entries[:limit], found[limit - 1][1])
        cut_short = found and found[-1][0] is None
        return Page(entries, found[-1][1] if cut_short else None)

    def all(self, **criteria: Any) -> Iterator[Entry]:
        """Every entry that fits, newest first."""
        return (entry for entry, _ in self._after(Search(**criteria), None) if entry is not None)

    def task(self, task_id: str) -> list[Entry]:
        """The runs of one task, the last one first."""
        return list(self.all(id=task_id)) or self._missed(task_id)

    def _missed(self, task_id: str) -> list[Entry]:
        record = self._record(task_id)
        return [] if record is None or not record.final else [_of_record(record)]

    # --- parts --------------------------------------------------------------------------------

    def _after(
        self, search: Search, cursor: str | None, most: int | None = None
    ) -> Iterator[tuple[Entry | None, str]]:
        """What fits, with its place; at last, when ``most`` documents were read, None with the place to go on from."""
        last_key, last_index = _read_cursor(cursor) if cursor is not None else (None, 0)
        looked, done = 0, ""
        for keys in self._keys(search, last_key):
            if most is not None and looked >= most:
                yield None, _cursor(done, 0)
                return
            looked, done = looked + len(keys), keys[-1]
            entries = self._store.read_many(keys)
            for key in keys:
                held = entries.get(key)
                if held is None:
                    continue
                document = cas.decode(_Document, key, held.value)
                for index in range(len(document.entries) - 1, -1, -1):
                    if key == last_key and index >= last_index:
                        continue
                    if search.fits(document.entries[index]):
                        yield document.entries[index], _cursor(key, index)

    def _keys(self, search: Search, last_key: str | None) -> Iterator[list[str]]:
        """Documents that may hold something, newest first, a few at a time."""
        now = self._clock.time()
        newest = now if search.until is None else min(now, search.until + _HOUR)
        oldest = max(now - self._expires, search.since or 0.0)
        for hour in range(int(newest // _HOUR) + 1, int(oldest // _HOUR) - 1, -1):
            folder = _folder(self._space, hour * _HOUR)
            if last_key is not None and folder > last_key:
                continue  # what is newer was shown before
            keys = sorted(self._store.keys(folder), reverse=True)
            wanted = [
                key
                for key in keys
                if (last_key is None or key <= last_key) and search.may_be_in(_Key.read(key, folder))
            ]
            for start in range(0, len(wanted), _READ):
                yield wanted[start : start + _READ]


class _Key(NamedTuple):
    """What a document's key says."""

    letters: str
    names: str
    ids: str
    host: str

    @classmethod
    def read(cls, key: str, folder: str) -> _Key:
        _, _, letters, names, ids, host = (key.removeprefix(folder).split(".", 5) + [""] * 6)[:6]
        return cls(letters, names, ids, host)


class _Document(msgspec.Struct):
    entries: list[Entry]
    dropped: int = 0


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Entry).decode


def entry_of(event: Event) -> Entry | None:
    """The entry that an event of a task's end makes; None for other events."""
    state = STATES.get(event["type"], "")
    if state not in _LETTERS:
        return None
    return Entry(
        id=str(event["uuid"]),
        name=str(event.get("name") or ""),
        state=state,
        ended=float(event["timestamp"]),
        worker=str(event["hostname"]),
        queue=str(event.get("queue") or ""),
        retries=int(event.get("retries") or 0),
        args=str(event.get("args") or ""),
        kwargs=str(event.get("kwargs") or ""),
        result=event.get("result"),
        exception=event.get("exception"),
        traceback=event.get("traceback") or None,
        reason=event.get("reason"),
        runtime=event.get("runtime"),
        root_id=event.get("root_id"),
        parent_id=event.get("parent_id"),
    )


def _of_record(record: Record) -> Entry:
    """Without arguments and result: the record does not say which of them are sensitive."""
    return Entry(
        id=record.id,
        name=record.name or "",
        state=record.state,
        ended=record.done_at or 0.0,
        worker=record.worker or "",
        queue=record.queue or "",
        retries=record.retries,
        exception=shown(record.result) if isinstance(record.result, BaseException) else None,
        traceback=record.traceback,
        reason="history has no entry: this is what its result record tells",
        runtime=record.runtime,
        root_id=record.root_id,
        parent_id=record.parent_id,
    )


def _folder(space: str, at: float) -> str:
    return f"history/{space}/{int(at // _HOUR):010d}/"


def _like(value: str, pattern: str | None) -> bool:
    return pattern is None or value == pattern or fnmatch.fnmatchcase(value, pattern)


def _is_glob(text: str) -> bool:
    return any(each in text for each in "*?[")


# --- Bloom filters, as text ------------------------------------------------------------------------


def _bloom(members: Iterable[str]) -> str:
    """A filter of these, in lower-case letters and digits."""
    listed = set(members)
    bits = min(_MOST_BITS, max(40, -(-len(listed) * _PER_MEMBER // 40) * 40))
    filled = 0
    for member in listed:
        for place in _places(member, bits):
            filled |= 1 << place
    return base64.b32encode(filled.to_bytes(bits // 8, "big")).decode().lower()


def _maybe(text: str, member: str) -> bool:
    """May the filter have this member? True when it cannot be read."""
    try:
        data = base64.b32decode(text.upper())
    except (binascii.Error, ValueError):
        return True
    filled, bits = int.from_bytes(data, "big"), len(data) * 8
    return bits == 0 or all(filled >> place & 1 for place in _places(member, bits))


def _places(member: str, bits: int) -> list[int]:
    digest = hashlib.blake2b(member.encode("utf-8", "surrogatepass"), digest_size=12).digest()
    return [int.from_bytes(digest[start : start + 4], "big") % bits for start in (0, 4, 8)]


# --- cursors ----------------------------------------------------------------------------------------


def _cursor(key: str, index: int) -> str:
    return base64.urlsafe_b64encode(f"{index} {key}".encode()).decode().rstrip("=")


def _read_cursor(text: str) -> tuple[str, int]:
    try:
        index, _, key = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode().partition(" ")
        if not key.startswith("history/"):
            raise ValueError
        return key, int(index)
    except (ValueError, binascii.Error):
        raise ValueError(f"the cursor {text[:40]!r} is not one that query() has returned") from None
