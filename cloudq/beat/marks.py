"""How far each periodic task has come: one document, written by whoever leads."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from cloudq.app import CloudQ
from cloudq.backends.base import Entry
from cloudq.beat.names import key_of, store_of
from cloudq.coordination import cas

#: Seconds for which an entry's mark is kept after it was seen last: deployments overlap and are rolled back.
KEEP = 30 * 86_400.0


class Mark(msgspec.Struct, frozen=True, omit_defaults=True):
    """``last``: slots up to here are dealt with. ``sent``: the last slot that was sent. Epoch seconds."""

    last: float
    sent: float | None = None


class _MarksDocument(msgspec.Struct):
    nonce: str
    marks: dict[str, Mark]


class Marks:
    """Marks only move forward, whoever writes them: two that believe to lead do each other no harm."""

    def __init__(self, app: CloudQ) -> None:
        self._store = store_of(app)
        self._clock = app.clock
        self._key = key_of(app, "marks")
        self._seen: Entry | None = None
        self._known: dict[str, Mark] = {}

    def load(self) -> None:
        """Read what others have written."""
        self._seen = self._store.read(self._key)
        self._known = _decode(self._key, self._seen.value) if self._seen else {}

    def get(self, name: str) -> Mark | None:
        """As of the last ``load`` or ``advance``."""
        return self._known.get(name)

    def advance(self, changes: dict[str, Mark], names: Iterable[str]) -> None:
        """Move these forward; ``names`` are all the entries there are, marks of others are dropped in time."""
        if not changes:
            return
        present_names = set(names)

        def change(value: bytes | None) -> bytes:
            marks = {} if value is None else _decode(self._key, value)
            for name, mark in changes.items():
                marks[name] = _later(marks.get(name), mark)
            old = self._clock.time() - KEEP
            marks = {name: mark for name, mark in marks.items() if name in present_names or mark.last > old}
            return msgspec.json.encode(_MarksDocument(cas.nonce(), marks))

        known = self._seen if self._seen is not None else cas.UNREAD
        done = cas.update(self._store, self._key, change, clock=self._clock, known=known, unique=True)
        self._seen = done.entry
        self._known = _decode(self._key, done.entry.value) if done.entry else {}


def _decode(key: str, value: bytes) -> dict[str, Mark]:
    return cas.decode(_MarksDocument, key, value).marks


def _later(one: Mark | None, other: Mark) -> Mark:
    if one is None:
        return other
    sent = max((each for each in (one.sent, other.sent) if each is not None), default=None)
    return Mark(max(one.last, other.last), sent)
