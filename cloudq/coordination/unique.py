"""At most one call of a kind under way: who has sent it, and under which id.

Whoever sends takes the lock first, then publishes, then marks the lock as sent. If it dies in between,
nobody knows whether the message is out. So whoever finds a lock that is not marked waits for that,
and after a while takes it over *with the same task id*: should both messages be out, they are
the same task, which is recognised, and everyone who was given that id finds its end.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from cloudq.backends.base import Entry, Matches, ResultBackend
from cloudq.clock import Clock
from cloudq.coordination import cas
from cloudq.coordination.lock import CLOCK_SKEW
from cloudq.errors import Conflict
from cloudq.retry import backoff

#: Seconds for which a lock that was never marked as sent is remembered, for its task id's sake.
RETENTION: Final = 86_400.0


class _UniqueDocument(msgspec.Struct, frozen=True):
    id: str
    until: float
    sent: bool
    nonce: str


@dataclass(frozen=True, slots=True)
class Taken:
    """Send it, under this id, then call ``sent``."""

    name: str
    id: str
    _entry: Entry


@dataclass(frozen=True, slots=True)
class Held:
    """The task with this id is under way."""

    id: str


class UniqueLocks:
    """Locks by name in ``store``. ``name`` is a key's segment, see ``lock_name``."""

    def __init__(
        self, store: ResultBackend, clock: Clock, *, rand: Callable[[], float] = random.random
    ) -> None:
        self._store = store
        self._clock = clock
        self._rand = rand

    def take(self, name: str, task_id: str, grace: float) -> Taken | Held:
        """The lock, or who has it. Waits while somebody else is publishing, ``grace`` seconds at most."""
        for pause in backoff(0.02, 0.5, self._rand):
            found = self._take(name, task_id, grace)
            if found is not None:
                return found
            self._clock.sleep(pause)
        raise AssertionError("backoff() never ends")

    def sent(self, taken: Taken, until: float) -> None:
        """The message is out: the lock holds until ``until`` (seconds since the epoch) or ``release``."""

        def mark(value: bytes | None) -> bytes | None:
            present = self._read(taken.name, value)
            if present is None or present.id != taken.id or present.sent:
                return None  # its task has run already
            return msgspec.json.encode(_UniqueDocument(taken.id, until, True, cas.nonce()))

        self._update(taken.name, mark, known=taken._entry)

    def extend(self, name: str, task_id: str, until: float) -> None:
        """The task with this id has started: the lock holds until then, if it is still that task's."""

        def longer(value: bytes | None) -> bytes | None:
            present = self._read(name, value)
            if present is None or present.id != task_id or present.until >= until:
                return None
            return msgspec.json.encode(_UniqueDocument(task_id, until, True, cas.nonce()))

        self._update(name, longer)

    def release(self, name: str, task_id: str) -> bool:
        """Free the lock if it belongs to that task; False when it does not. May be repeated."""
        key = self._key(name)

        def drop() -> bool:
            seen = self._store.read(key)
            while seen is not None and cas.decode(_UniqueDocument, key, seen.value).id == task_id:
                try:
                    self._store.delete(key, Matches(seen.version))
                    return True
                except Conflict:
                    seen = self._store.read(key)  # marked as sent meanwhile
            return False

        return cas.patiently(drop, clock=self._clock, rand=self._rand)

    def _take(self, name: str, task_id: str, grace: float) -> Taken | Held | None:
        def take(value: bytes | None) -> bytes | None:
            now = self._clock.time()
            present = self._read(name, value)
            if present is not None and present.until + CLOCK_SKEW > now:
                return None
            unsure = present is not None and not present.sent
            return msgspec.json.encode(
                _UniqueDocument(
                    present.id if unsure and present else task_id, now + grace, False, cas.nonce()
                )
            )

        done = self._update(name, take, guess_absent=True)
        assert done.entry is not None  # take() writes when nothing is there
        document = self._read(name, done.entry.value)
        assert document is not None
        if done.written:
            return Taken(name, document.id, done.entry)
        return Held(document.id) if document.sent else None

    def _read(self, name: str, value: bytes | None) -> _UniqueDocument | None:
        return None if value is None else cas.decode(_UniqueDocument, self._key(name), value)

    def _update(
        self, name: str, change: cas.Change, known: Entry | None = None, guess_absent: bool = False
    ) -> cas.Updated:
        def expiry(value: bytes) -> float:
            document = cas.decode(_UniqueDocument, self._key(name), value)
            return document.until + CLOCK_SKEW + (0.0 if document.sent else RETENTION)

        return cas.update(
            self._store,
            self._key(name),
            change,
            clock=self._clock,
            expires_at=expiry,
            known=known or cas.UNREAD,
            guess_absent=guess_absent,
            unique=True,
            rand=self._rand,
        )

    def _key(self, name: str) -> str:
        return f"unique/{name}"


def lock_name(text: str) -> str:
    """The lock's name for any text that tells calls apart."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
