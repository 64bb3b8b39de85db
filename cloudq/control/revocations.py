"""What a process that runs tasks remembers of revocations: in memory, kept up from the board."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cloudq.backends.base import Version
from cloudq.clock import Clock
from cloudq.coordination.board import Board, Boards, Revoked, Stamp
from cloudq.message import Envelope

#: Where a message carries what ``stamp()`` put on it.
STAMPS: Final = "stamps"


@dataclass(frozen=True, slots=True)
class Hit:
    """A revoked task: by its id or a header, and whether it is to be stopped while it runs."""

    terminate: bool
    by: str


class Revocations:
    """Answers from memory. ``look`` reads the board, ``find`` never does."""

    def __init__(self, boards: Boards, clock: Clock) -> None:
        self._boards = boards
        self._clock = clock
        self._ids: dict[str, Revoked] = {}
        self._stamps: tuple[Stamp, ...] = ()
        self._chunks: dict[str, tuple[Revoked, ...]] = {}
        self._version: Version | None = None
        self._looked = False
        self.board = Board()

    def __bool__(self) -> bool:
        return bool(self._ids or self._stamps)

    def __len__(self) -> int:
        return len(self._ids)

    def look(self) -> bool:
        """Read the board; True when it has changed. Raises OperationalError, CorruptRecord."""
        board, version = self._boards.read()
        if self._looked and version == self._version:
            return False
        chunks = {
            each.key: self._chunks[each.key] if each.key in self._chunks else self._boards.chunk(each.key)
            for each in board.chunks
        }
        ids = {each.id: each for part in (*chunks.values(), board.revoked) for each in part}
        self._chunks, self._ids, self._stamps, self.board = chunks, ids, board.stamps, board
        self._version, self._looked = version, True  # last: had a read failed, the next look tries again
        return True

    def find(self, task_id: str, headers: Mapping[str, Any]) -> Hit | None:
        """Is the task with this id and these headers revoked?"""
        now = self._clock.time()
        found = self._ids.get(task_id)
        if found is not None and found.until > now:
            return Hit(found.terminate, f"id {task_id}")
        for stamp in self._stamps:
            if stamp.until > now and any(each in stamp.values for each in _stamped(headers, stamp.header)):
                return Hit(stamp.terminate, f"header {stamp.header}")
        return None

    def why(self, envelope: Envelope) -> str | None:
        """For ``Lifecycle.revoked``."""
        if not (self._ids or self._stamps):
            return None
        return "revoked" if self.find(envelope.id, envelope.headers) is not None else None

    def fresh(self, envelope: Envelope) -> str | None:
        """As ``why``, after a look at the board."""
        self.look()
        return self.why(envelope)

    def ids(self) -> list[str]:
        """The revoked ids, sorted."""
        now = self._clock.time()
        return sorted(each.id for each in self._ids.values() if each.until > now)


def _stamped(headers: Mapping[str, Any], name: str) -> Iterable[Any]:
    """The values of a header, whether it is a stamp or was given with ``headers=``."""
    stamps = headers.get(STAMPS)
    for source in (stamps, headers):
        if isinstance(source, Mapping) and name in source:
            value = source[name]
            yield from value if isinstance(value, list | tuple | set | frozenset) else (value,)
