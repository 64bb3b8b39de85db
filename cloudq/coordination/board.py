"""The board: one document that tells every worker of a namespace what it is asked to do (decision 17).

A queue has no fan-out; a results store has one document that all can read. Workers read it every few
seconds (one read, whatever it says), callers change it under a condition. It holds what workers must
remember (revoked ids and headers, paused queues) and what they must do once (orders); each entry has
its own end, and the document goes when the last one has. Long lists of revoked ids lie in
documents beside it, read once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import quote

import msgspec

from cloudq import ids
from cloudq.backends.base import Entry, ResultBackend, Version
from cloudq.clock import Clock
from cloudq.coordination import cas

#: Revoked ids in the board itself; more of them move to a document beside it.
INLINE: Final = 200
#: Revoked ids in one such document: about 300 KB with ids of the longest usual sort.
CHUNK: Final = 4_000


class Revoked(msgspec.Struct, array_like=True, frozen=True):
    """A revoked task, remembered until ``until`` (seconds since the epoch)."""

    id: str
    until: float
    terminate: bool = False


class Stamp(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tasks revoked by a header: those that carry one of ``values`` under ``header``."""

    header: str
    values: tuple[Any, ...]
    until: float
    terminate: bool = False


class Chunk(msgspec.Struct, array_like=True, frozen=True):
    """A document of further revoked ids."""

    key: str
    until: float


class Order(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something to be done once, by the workers named in ``to`` (None: by all). Times: seconds since the epoch."""

    id: str
    do: str
    args: dict[str, Any]
    at: float
    until: float
    to: tuple[str, ...] | None = None


class _Ending(Protocol):
    @property
    def until(self) -> float: ...


class Board(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the document says. ``paused`` maps queues to the moment since when."""

    nonce: str = ""
    revoked: tuple[Revoked, ...] = ()
    chunks: tuple[Chunk, ...] = ()
    stamps: tuple[Stamp, ...] = ()
    paused: dict[str, float] = {}
    orders: tuple[Order, ...] = ()

    def with_(self, **changes: Any) -> Board:
        """A copy with these fields changed."""
        return msgspec.structs.replace(self, **changes)

    def pruned(self, now: float) -> Board:
        """Without what is over."""
        return self.with_(
            revoked=tuple(each for each in self.revoked if each.until > now),
            chunks=tuple(each for each in self.chunks if each.until > now),
            stamps=tuple(each for each in self.stamps if each.until > now),
            orders=tuple(each for each in self.orders if each.until > now),
        )

    def ends_at(self, now: float) -> float | None:
        """When the document may go; None while a queue is paused."""
        if self.paused:
            return None
        parts: Iterable[Iterable[_Ending]] = (self.revoked, self.chunks, self.stamps, self.orders)
        return max((each.until for part in parts for each in part), default=now) + 60.0


class Seen(NamedTuple):
    """The board and its version (None: there is none)."""

    board: Board
    version: Version | None


class Boards:
    """One namespace's board in a store."""

    def __init__(self, store: ResultBackend, namespace: str, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._space = quote(namespace, safe="")
        self.key = f"control/{self._space}/board"

    def read(self) -> Seen:
        """The board as it is: one read."""
        return self._seen(self._store.read(self.key))

    def change(self, change: Callable[[Board], Board]) -> Board:
        """Put ``change(board)`` in its place, nobody's change in between. Raises ServiceUnavailable."""
        made: list[Board] = []

        def bytes_of(value: bytes | None) -> bytes:
            now = self._clock.time()
            board = change(self._decode(value).pruned(now)).with_(nonce=cas.nonce())
            made[:] = [board]
            return msgspec.json.encode(board)

        cas.update(
            self._store,
            self.key,
            bytes_of,
            clock=self._clock,
            expires_at=lambda value: made[0].ends_at(self._clock.time()),
            unique=True,
        )
        return made[0]

    # --- revoked ids --------------------------------------------------------------------------

    def revoke(self, task_ids: Sequence[str], until: float, terminate: bool) -> None:
        """Have workers remember these ids. Doing it twice is doing it once."""
        entries = tuple(Revoked(each, until, terminate) for each in dict.fromkeys(task_ids))
        if len(entries) > INLINE:
            chunks = tuple(self._write_chunks(entries))
            self.change(lambda board: board.with_(chunks=board.chunks + chunks))
            return
        board = self.change(lambda board: board.with_(revoked=_merged(board.revoked, entries)))
        if len(board.revoked) > INLINE:
            self._spill(board.revoked)

    def chunk(self, key: str) -> tuple[Revoked, ...]:
        """The ids of a document beside the board; none when it has expired."""
        entry = self._store.read(key)
        return () if entry is None else cas.decode(_Chunked, key, entry.value).revoked

    def _spill(self, entries: tuple[Revoked, ...]) -> None:
        """Move them beside the board. Dying in between leaves them in both places, or a document nobody reads."""
        chunks = tuple(self._write_chunks(entries))
        moved = set(entries)
        self.change(
            lambda board: board.with_(
                revoked=tuple(each for each in board.revoked if each not in moved),
                chunks=board.chunks + chunks,
            )
        )

    def _write_chunks(self, entries: tuple[Revoked, ...]) -> Iterable[Chunk]:
        for start in range(0, len(entries), CHUNK):
            part = entries[start : start + CHUNK]
            key = f"control/{self._space}/revoked-{ids.new_id()}"
            until = max(each.until for each in part)
            value = msgspec.json.encode(_Chunked(part))
            cas.ensure(self._store, key, value, clock=self._clock, expires_at=until + 60.0)
            yield Chunk(key, until)

    # --- parts --------------------------------------------------------------------------------

    def _seen(self, entry: Entry | None) -> Seen:
        return Seen(self._decode(entry.value if entry else None), entry.version if entry else None)

    def _decode(self, value: bytes | None) -> Board:
        return Board() if value is None else cas.decode(Board, self.key, value)


class _Chunked(msgspec.Struct, frozen=True):
    revoked: tuple[Revoked, ...]


def _merged(old: tuple[Revoked, ...], new: tuple[Revoked, ...]) -> tuple[Revoked, ...]:
    found = {each.id: each for each in old}
    for each in new:
        before = found.get(each.id)
        if before is None:
            found[each.id] = each
        else:
            terminate = each.terminate or before.terminate
            found[each.id] = Revoked(each.id, max(each.until, before.until), terminate)
    return tuple(found.values())
