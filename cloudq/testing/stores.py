"""Results stores for tests: one in memory, and wrappers that behave as badly as real stores may.

All of them keep the contract of ``cloudq.backends.base``; wrappers may be put on top of each
other, and on any real backend.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import count
from random import Random
from typing import TypeVar

from cloudq.backends.base import (
    ALWAYS,
    Absent,
    BackendCapabilities,
    Condition,
    Entry,
    Matches,
    ResultBackend,
    Version,
    check_folder,
    check_key,
)
from cloudq.clock import Clock
from cloudq.errors import Conflict, ServiceUnavailable

T = TypeVar("T")


class MemoryStore:
    """A dict with the contract of a results store; for one process, gone with it."""

    def __init__(self, clock: Clock, *, conflict_has_entry: bool = False, batch_read: int = 100) -> None:
        self._clock = clock
        self._folders: defaultdict[str, dict[str, Entry]] = defaultdict(dict)
        self._mutex = threading.RLock()
        self._versions = count(1)
        self._tells = conflict_has_entry
        self.capabilities = BackendCapabilities(
            conflict_has_entry=conflict_has_entry, batch_read=batch_read, reach="process"
        )
        self.url = "memory://"

    def read(self, key: str) -> Entry | None:
        check_key(key)
        with self._mutex:
            entry = self._folders.get(_folder(key), {}).get(key)
            if entry is None or (entry.expires_at is not None and entry.expires_at <= self._clock.time()):
                return None
            return entry

    def read_many(self, keys: Iterable[str]) -> dict[str, Entry]:
        with self._mutex:
            return {key: entry for key in keys if (entry := self.read(key)) is not None}

    def write(
        self, key: str, value: bytes, when: Condition = ALWAYS, expires_at: float | None = None
    ) -> Version:
        with self._mutex:
            self._check(key, when)
            version = Version(str(next(self._versions)))
            self._folders[_folder(key)][key] = Entry(bytes(value), version, expires_at)
            return version

    def delete(self, key: str, when: Condition = ALWAYS) -> None:
        if isinstance(when, Absent):
            raise ValueError("delete(when=ABSENT) makes no sense: there is nothing to delete")
        with self._mutex:
            self._check(key, when)
            self._folders[_folder(key)].pop(key, None)

    def keys(self, prefix: str) -> Iterator[str]:
        check_folder(prefix)
        with self._mutex:
            now = self._clock.time()
            entries = self._folders.get(prefix[:-1], {}).items()
            found = [key for key, entry in entries if entry.expires_at is None or entry.expires_at > now]
        return iter(sorted(found))

    def close(self) -> None:
        """Nothing to give back."""

    def _check(self, key: str, when: Condition) -> None:
        present = self.read(key)
        met = {
            Absent: present is None,
            Matches: present is not None and isinstance(when, Matches) and present.version == when.version,
        }.get(type(when), True)
        if not met:
            raise Conflict(key, present if self._tells else None)


def _folder(key: str) -> str:
    return key.rpartition("/")[0]


class Wrapper:
    """Hands every verb on; ``before`` and ``after`` are what a test store changes.

    A wrapper has the inner store's contract. ``before(verb, key)`` may raise instead of the
    call, ``after(verb, key)`` although it was done.
    """

    def __init__(self, store: ResultBackend) -> None:
        self.inner = store

    @property
    def capabilities(self) -> BackendCapabilities:
        return self.inner.capabilities

    @property
    def url(self) -> str:
        return self.inner.url

    def before(self, verb: str, key: str) -> None:
        """Called before the inner store."""

    def after(self, verb: str, key: str) -> None:
        """Called when the inner store has answered without an error."""

    def read(self, key: str) -> Entry | None:
        return self._around("read", key, lambda: self.inner.read(key))

    def read_many(self, keys: Iterable[str]) -> dict[str, Entry]:
        listed = list(keys)
        return self._around("read_many", listed[0] if listed else "", lambda: self.inner.read_many(listed))

    def write(
        self, key: str, value: bytes, when: Condition = ALWAYS, expires_at: float | None = None
    ) -> Version:
        return self._around("write", key, lambda: self.inner.write(key, value, when, expires_at))

    def delete(self, key: str, when: Condition = ALWAYS) -> None:
        return self._around("delete", key, lambda: self.inner.delete(key, when))

    def keys(self, prefix: str) -> Iterator[str]:
        # Read at once: a page is one call of the service, whatever the caller does with it.
        return iter(self._around("keys", prefix, lambda: list(self.inner.keys(prefix))))

    def close(self) -> None:
        self.inner.close()

    def _around(self, verb: str, key: str, call: Callable[[], T]) -> T:
        self.before(verb, key)
        answer = call()
        self.after(verb, key)
        return answer


class Counting(Wrapper):
    """Counts the calls: ``calls["read"]``, ``calls.total()``; ``written`` counts writes per key."""

    def __init__(self, store: ResultBackend) -> None:
        super().__init__(store)
        self.calls: Counter[str] = Counter()
        self.written: Counter[str] = Counter()

    def before(self, verb: str, key: str) -> None:
        self.calls[verb] += 1

    def after(self, verb: str, key: str) -> None:
        if verb == "write":
            self.written[key] += 1


class SlowNames(Wrapper):
    """Refuses (as HTTP 429 does) to write a key within ``seconds`` of the last write let through.

    Google Cloud Storage: one write per second per object name. Writes that then fail on their
    condition count too, as nobody promises that they do not.
    """

    def __init__(self, store: ResultBackend, clock: Clock, seconds: float = 1.0) -> None:
        super().__init__(store)
        self._clock = clock
        self._seconds = seconds
        self._last: dict[str, float] = {}
        self.refused = 0

    @property
    def capabilities(self) -> BackendCapabilities:
        return replace(self.inner.capabilities, writes_per_key=1 / self._seconds)

    def before(self, verb: str, key: str) -> None:
        if verb not in ("write", "delete"):
            return
        now = self._clock.time()
        if now - self._last.get(key, float("-inf")) < self._seconds:
            self.refused += 1
            raise ServiceUnavailable(f"{key!r} is written too often (test store)")
        self._last[key] = now


class Flaky(Wrapper):
    """Fails now and then: ``refused`` is the share of calls that are not done, ``lost`` that of
    writes and deletes that are done although the caller sees an error."""

    def __init__(self, store: ResultBackend, rng: Random, refused: float = 0.1, lost: float = 0.1) -> None:
        super().__init__(store)
        self._rng = rng
        self._refused = refused
        self._lost = lost

    def before(self, verb: str, key: str) -> None:
        if self._rng.random() < self._refused:
            raise ServiceUnavailable(f"{verb} of {key!r} was refused (test store)")

    def after(self, verb: str, key: str) -> None:
        if verb in ("write", "delete") and self._rng.random() < self._lost:
            raise ServiceUnavailable(f"the reply to the {verb} of {key!r} was lost (test store)")


class SimulatedCrash(BaseException):
    """The process dies here. Not an Exception: nothing in the code under test may catch it."""


class Crashing(Wrapper):
    """Dies when ``dies(moment, verb, key)`` says so; ``moment`` is "before" or "after" a call.

    ``Crashing(store, at_step(n))`` dies at the n-th moment, so a loop over n tries every place where
    a process can die.
    """

    def __init__(self, store: ResultBackend, dies: Callable[[str, str, str], bool]) -> None:
        super().__init__(store)
        self._dies = dies

    def before(self, verb: str, key: str) -> None:
        if self._dies("before", verb, key):
            raise SimulatedCrash(f"before the {verb} of {key!r}")

    def after(self, verb: str, key: str) -> None:
        if self._dies("after", verb, key):
            raise SimulatedCrash(f"after the {verb} of {key!r}")


def at_step(number: int) -> Callable[[str, str, str], bool]:
    """For ``Crashing``: die at the ``number``-th moment (from 1), once."""
    steps = count(1)
    return lambda moment, verb, key: next(steps) == number


class ContentVersions(Wrapper):
    """Versions are made of the content, as S3's ETags are: writing A, B, A gives A's version again."""

    def read(self, key: str) -> Entry | None:
        return _by_content(self.inner.read(key))

    def read_many(self, keys: Iterable[str]) -> dict[str, Entry]:
        entries = self.inner.read_many(keys)
        return {key: replace(entry, version=_content_version(entry.value)) for key, entry in entries.items()}

    def write(
        self, key: str, value: bytes, when: Condition = ALWAYS, expires_at: float | None = None
    ) -> Version:
        self._on_match(key, when, lambda inner: self.inner.write(key, value, inner, expires_at))
        return _content_version(value)

    def delete(self, key: str, when: Condition = ALWAYS) -> None:
        self._on_match(key, when, lambda inner: self.inner.delete(key, inner))

    def _on_match(self, key: str, when: Condition, call: Callable[[Condition], object]) -> None:
        while True:
            inner = when
            if isinstance(when, Matches):
                present = self.inner.read(key)
                if present is None or _content_version(present.value) != when.version:
                    raise Conflict(
                        key, _by_content(present) if self.capabilities.conflict_has_entry else None
                    )
                inner = Matches(present.version)
            try:
                call(inner)
                return
            except Conflict as error:
                if not isinstance(when, Matches):
                    raise Conflict(key, _by_content(error.present)) from error
                # Changed between our read and our write, perhaps back to the same bytes: look again.


def _content_version(value: bytes) -> Version:
    return Version(hashlib.sha256(value).hexdigest()[:32])


def _by_content(entry: Entry | None) -> Entry | None:
    return None if entry is None else replace(entry, version=_content_version(entry.value))
