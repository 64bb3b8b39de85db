"""Read, change, write back: the one loop on which locks, claims and limits are built.

Everything here holds on any store that honours ``ABSENT`` and ``Matches``, and stays right when
a reply is lost (the write happened, the caller sees an error) and when the store derives its
versions from the content (S3's ETag: writing A, B, A gives the first version again).
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias, TypeVar

import msgspec

from cloudq.backends.base import ABSENT, Entry, Matches, ResultBackend
from cloudq.clock import Clock
from cloudq.errors import Conflict, CorruptRecord, ServiceUnavailable
from cloudq.retry import backoff

#: Seconds before the second try; doubles up to MAX_WAIT, half of each wait is random.
FIRST_WAIT: Final = 0.02
MAX_WAIT: Final = 2.0
#: Twelve tries wait about eight seconds in all: enough to outlast one write per second per name.
ATTEMPTS: Final = 12

Change: TypeAlias = Callable[[bytes | None], bytes | None]
Expiry: TypeAlias = float | Callable[[bytes], float | None] | None
T = TypeVar("T")


class _Unread(Enum):
    UNREAD = 0


UNREAD: Final = _Unread.UNREAD


@dataclass(frozen=True, slots=True)
class Updated:
    """What is under the key now, and whether this call wrote it."""

    entry: Entry | None
    written: bool


def nonce() -> str:
    """Text that makes a document unlike any other ever written, whatever else it says."""
    return secrets.token_hex(8)


def update(
    store: ResultBackend,
    key: str,
    change: Change,
    *,
    clock: Clock,
    expires_at: Expiry = None,
    attempts: int = ATTEMPTS,
    known: Entry | _Unread = UNREAD,
    guess_absent: bool = False,
    unique: bool = False,
    rand: Callable[[], float] = random.random,
) -> Updated:
    """Replace the value under ``key`` by ``change(value)``, with nobody's write in between.

    ``change`` gets the present bytes, or None when nothing is there, and returns the new bytes,
    or None to leave everything as it is. It is called once per try and must depend on nothing but
    its argument (and the clock). ``expires_at`` is seconds since the epoch, or a function of the
    new bytes. ``known`` (an entry seen earlier) or ``guess_absent`` save the first read; a guess
    that turns out wrong costs one try, and nothing is left as it is on the strength of a guess.

    ``unique`` promises that every value ``change`` makes carries a fresh ``nonce()``: then a write
    that happened though its reply was lost is recognised, as long as nobody wrote after it. Else it
    may be applied once more, so the change itself must know its own work again (an owner in the
    document) or not mind.

    An entry that became what it was (A, B, A) under content-derived versions is no danger here:
    what is replaced is exactly the bytes that ``change`` saw.

    Raises ServiceUnavailable when ``attempts`` tries did not get through.
    """
    waits = backoff(FIRST_WAIT, MAX_WAIT, rand)
    seen: Entry | _Unread | None = None if guess_absent else known
    guessed, crowded = seen is not UNREAD, False
    tried: bytes | None = None
    last: Exception | None = None
    for _ in range(attempts):
        if crowded:
            clock.sleep(next(waits))
        try:
            if seen is UNREAD:
                seen = store.read(key)
            if unique and seen is not None and seen.value == tried:
                return Updated(seen, written=True)
            value = change(None if seen is None else seen.value)
            if value is None:
                if not guessed:
                    return Updated(seen, written=False)
                seen, guessed = UNREAD, False  # nothing may be decided on a guess
                continue
            tried = value
            expiry = expires_at(value) if callable(expires_at) else expires_at
            version = store.write(key, value, ABSENT if seen is None else Matches(seen.version), expiry)
            return Updated(Entry(value, version, expiry), written=True)
        except Conflict as error:
            seen = UNREAD if error.present is None else error.present
            crowded, guessed, last = not guessed, False, error  # a wrong guess is no crowd
        except ServiceUnavailable as error:
            crowded, guessed, last = True, False, error
            seen = UNREAD
    raise ServiceUnavailable(
        f"{key!r} in {store.url} could not be updated in {attempts} tries: too many write it at once,"
        f" or the store refuses; try again later ({last})"
    ) from last


def ensure(
    store: ResultBackend,
    key: str,
    value: bytes,
    *,
    clock: Clock,
    expires_at: float | None = None,
    attempts: int = ATTEMPTS,
    rand: Callable[[], float] = random.random,
) -> bool:
    """Make sure that something is under ``key``: write ``value`` unless an entry is there.

    True when this call's own write went through; False when something was there before, which
    may be this very call's write whose reply was lost. Raises ServiceUnavailable when the store
    stays away for ``attempts`` tries.
    """
    waits = backoff(FIRST_WAIT, MAX_WAIT, rand)
    for attempt in range(1, attempts + 1):
        try:
            # From the second try on a read comes first: a store that allows one write per second
            # and name is not helped by another one.
            if attempt > 1 and store.read(key) is not None:
                return False
            store.write(key, value, ABSENT, expires_at)
            return True
        except Conflict:
            return False
        except ServiceUnavailable:
            if attempt == attempts:
                raise
            clock.sleep(next(waits))
    raise ValueError(f"attempts must be at least 1, got {attempts}")


def patiently(
    call: Callable[[], T],
    *,
    clock: Clock,
    attempts: int = ATTEMPTS,
    rand: Callable[[], float] = random.random,
) -> T:
    """``call()``, tried again while the store is unavailable; for reads and repeatable writes."""
    waits = backoff(FIRST_WAIT, MAX_WAIT, rand)
    for _ in range(attempts - 1):
        try:
            return call()
        except ServiceUnavailable:
            clock.sleep(next(waits))
    return call()


def decode(kind: type[T], key: str, value: bytes) -> T:
    """Read a JSON document. Raises CorruptRecord naming the key."""
    try:
        return msgspec.json.decode(value, type=kind)
    except msgspec.MsgspecError as error:
        raise CorruptRecord(
            f"{key!r} does not hold a {kind.__name__.strip('_')} this release can read ({error});"
            " delete it if nothing else uses that name"
        ) from error
