"""Idempotency: run the work of a key once, and hand its record to everyone who comes later.

A claim is a lease, not a tick in a box: whoever dies with it loses it, and the next one takes
over. So the possible answers are three, and "somebody had it before, forget it" is not one::

    match once.claim(key, owner, lease_seconds=60):
        case Claimed(token): ...run, then once.finish(token, record) or once.abandon(token)
        case Running(until): ...somebody is at it; come back after ``until``
        case Done(record): ...here is what it gave

A first run costs two writes (claim, finish), a repeated one a single conditional write that
fails, plus one read where the store does not return what it found.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import msgspec

from cloudq.backends.base import Entry, Matches, ResultBackend
from cloudq.clock import Clock
from cloudq.coordination import cas
from cloudq.coordination.lock import CLOCK_SKEW
from cloudq.errors import Conflict, LeaseLost

#: Seconds an unfinished claim is kept after its lease ran out, so that its number is known.
RETENTION: Final = 86_400.0


class _ClaimDocument(msgspec.Struct, frozen=True, omit_defaults=True):
    """The first line of the stored value; a finished claim's record follows as it is."""

    key: str  # for people; the beginning of it
    owner: str
    #: How many took the key over so far: with ``owner`` it names one claim.
    turn: int
    until: float
    nonce: str
    done: bool = False


@dataclass(frozen=True, slots=True)
class Token:
    """A claim in hand; what ``finish``, ``renew`` and ``abandon`` ask for."""

    key: str
    owner: str
    turn: int
    #: Seconds since the epoch until which nobody else may start.
    until: float
    _entry: Entry


@dataclass(frozen=True, slots=True)
class Claimed:
    """The work is yours."""

    token: Token


@dataclass(frozen=True, slots=True)
class Running:
    """Somebody else holds the claim until ``until`` (seconds since the epoch)."""

    until: float
    owner: str


@dataclass(frozen=True, slots=True)
class Done:
    """The work is finished. ``mine``: the record is the one this very call brought."""

    record: bytes
    mine: bool = False


Claim: TypeAlias = Claimed | Running | Done


class Once:
    """Claims in ``store``, under ``PREFIX/`` and the SHA-256 of the key (any text will do as a key)."""

    def __init__(
        self,
        store: ResultBackend,
        clock: Clock,
        *,
        prefix: str = "once",
        skew: float = CLOCK_SKEW,
        rand: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._clock = clock
        self._prefix = prefix
        self._skew = skew
        self._rand = rand

    def name(self, key: str) -> str:
        """Where the claim for ``key`` is stored."""
        return f"{self._prefix}/{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()}"

    def claim(self, key: str, owner: str, lease_seconds: float) -> Claim:
        """Ask for the work of ``key``.

        ``owner`` names one attempt (one delivery to one worker), not the task: the same owner
        asking again, after a lost reply say, gets its own claim back, so two attempts at work at the
        same time need different names. ``lease_seconds`` is how long the work may take without
        ``renew``; in Lambda, the remaining time.
        """
        if lease_seconds <= 0:
            raise ValueError(f"lease_seconds is a positive number, got {lease_seconds!r}")
        name = self.name(key)

        def take(value: bytes | None) -> bytes | None:
            now = self._clock.time()
            turn = 1
            if value is not None:
                present, _ = _decode(name, value)
                if present.done:
                    return None
                if present.owner == owner:
                    turn = present.turn
                elif present.until + self._skew > now:
                    return None
                else:
                    turn = present.turn + 1
            return _encode(_ClaimDocument(_shown(key), owner, turn, now + lease_seconds, cas.nonce()))

        done = self._update(name, take, guess_absent=True)
        assert done.entry is not None  # take() writes when nothing is there
        return self._answer(key, name, done.entry, mine=done.written)

    def renew(self, token: Token, lease_seconds: float) -> Token:
        """Keep the claim for ``lease_seconds`` from now. Raises LeaseLost when it is no longer ours."""
        name = self.name(token.key)

        def extend(value: bytes | None) -> bytes | None:
            if not _is_ours(name, value, token):
                return None
            until = self._clock.time() + lease_seconds
            return _encode(_ClaimDocument(_shown(token.key), token.owner, token.turn, until, cas.nonce()))

        done = self._update(name, extend, known=token._entry)
        if not done.written or done.entry is None:
            raise LeaseLost(f"the claim on {token.key!r} was taken over, finished or abandoned")
        return _token(token.key, name, done.entry)

    def finish(self, token: Token, record: bytes, expires_at: float | None = None) -> Done | Running:
        """Leave ``record`` for everyone who asks, until ``expires_at`` (seconds since the epoch).

        ``Done(record, mine=True)`` when it is stored. After a takeover it is refused: the answer
        is the other's record, or Running while the other is still at it. When the other gave
        up (nothing is there) the record is stored after all: the work *was* done. May be repeated.
        Raises ValueTooLarge when the record does not fit the store.
        """
        name = self.name(token.key)

        def put(value: bytes | None) -> bytes | None:
            if value is not None and not _is_ours(name, value, token):
                return None
            document = _ClaimDocument(_shown(token.key), token.owner, token.turn, 0.0, cas.nonce(), done=True)
            return _encode(document, record)

        done = self._update(name, put, known=token._entry, expires_at=expires_at)
        assert done.entry is not None  # put() writes when nothing is there
        present, stored = _decode(name, done.entry.value)
        if not present.done:
            return Running(present.until, present.owner)
        return Done(stored, mine=(present.owner, present.turn) == (token.owner, token.turn))

    def abandon(self, token: Token) -> bool:
        """Give the claim up at once, so that the next attempt need not wait. False when it was not ours."""
        name = self.name(token.key)

        def drop() -> bool:
            seen: Entry | None = token._entry
            while seen is not None and _is_ours(name, seen.value, token):
                try:
                    self._store.delete(name, Matches(seen.version))
                    return True
                except Conflict as error:
                    # Ours in a newer version after a renewal: each turn of the loop has a new one.
                    seen = error.present or self._store.read(name)
            return False

        return cas.patiently(drop, clock=self._clock, rand=self._rand)

    def _update(
        self,
        name: str,
        change: cas.Change,
        *,
        known: Entry | None = None,
        guess_absent: bool = False,
        expires_at: float | None = None,
    ) -> cas.Updated:
        def lease_end(value: bytes) -> float | None:
            document, _ = _decode(name, value)
            return expires_at if document.done else document.until + RETENTION

        return cas.update(
            self._store,
            name,
            change,
            clock=self._clock,
            expires_at=lease_end,
            known=known or cas.UNREAD,
            guess_absent=guess_absent,
            unique=True,
            rand=self._rand,
        )

    def _answer(self, key: str, name: str, entry: Entry, mine: bool) -> Claim:
        document, record = _decode(name, entry.value)
        if document.done:
            return Done(record)
        return Claimed(_token(key, name, entry)) if mine else Running(document.until, document.owner)


def _is_ours(name: str, value: bytes | None, token: Token) -> bool:
    """Is this the token's own claim, still unfinished?"""
    if value is None:
        return False
    document, _ = _decode(name, value)
    return not document.done and (document.owner, document.turn) == (token.owner, token.turn)


def _token(key: str, name: str, entry: Entry) -> Token:
    document, _ = _decode(name, entry.value)
    return Token(key, document.owner, document.turn, document.until, entry)


def _shown(key: str) -> str:
    return key[:200].encode("utf-8", "backslashreplace").decode()


def _encode(document: _ClaimDocument, record: bytes = b"") -> bytes:
    return msgspec.json.encode(document) + b"\n" + record


def _decode(name: str, value: bytes) -> tuple[_ClaimDocument, bytes]:
    head, _, record = value.partition(b"\n")  # JSON never holds a raw newline; the record may
    return cas.decode(_ClaimDocument, name, head), record
