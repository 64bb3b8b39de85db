"""SQLite connections for the embedded broker and store: one per thread, short transactions.

A file is opened in WAL mode. ``synchronous=NORMAL`` (the default) survives the death of any process;
``FULL`` also survives the loss of power, at the price of a disk flush per transaction.
``memory://`` is one connection behind a lock.

No connection crosses a fork (SQLite forbids even to close one on the other side): before a fork every
connection is closed once its transaction is over, and both sides open their own again. What is in memory
belongs to the process that put it there: a forked child begins with nothing, or it would do the
parent's work a second time. No connection outlives its thread either.
"""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cloudq.errors import CloudQError, ImproperlyConfigured, ServiceUnavailable, StoreNotFound
from cloudq.url import Url

#: Seconds that a transaction waits for another process's.
_BUSY: Final = 30.0


@dataclass(frozen=True, slots=True)
class Tables:
    """The statements that make the tables; ``last`` is there when all of them are."""

    script: str
    last: str


class Bell:
    """Rung when something has changed that another thread of this process may wait for."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.stamp = 0

    def ring(self) -> None:
        with self.changed:
            self.stamp += 1
            self.changed.notify_all()


class _Link:
    """A thread's connection, opened when it is needed. Used under its lock."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.connection: sqlite3.Connection | None = None

    def close(self) -> None:
        found, self.connection = self.connection, None
        if found is not None:
            found.close()

    def __del__(self, quietly: Any = contextlib.suppress) -> None:
        # Its thread has ended, or the process ends: then this module's names are gone already.
        with quietly(Exception):
            self.close()


class Database:
    """One SQLite database; None for one in memory."""

    def __init__(self, path: str | None, tables: Tables, *, synchronous: str = "NORMAL") -> None:
        self.path = path
        self.bell = Bell()
        self._tables = tables
        self._synchronous = synchronous
        self._closed = False
        self._lock = threading.Lock()
        self._links: weakref.WeakSet[_Link] = weakref.WeakSet()
        self._local = threading.local()
        self._memory = _Link() if path is None else None
        if self._memory is not None:
            self._links.add(self._memory)
        with _databases_lock:
            _databases.add(self)
        with self.connected():
            pass

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A write transaction: all of the block, or nothing. Raises ServiceUnavailable when locked out."""
        with self.connected() as connection:
            self._begin(connection)
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            try:
                connection.execute("COMMIT")
            except sqlite3.Error as error:
                connection.execute("ROLLBACK")
                raise self._unavailable(error) from error

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Reads of one moment each."""
        with self.connected() as connection:
            try:
                yield connection
            except sqlite3.OperationalError as error:
                raise self._unavailable(error) from error

    def data_version(self) -> int:
        """Changes when another connection has changed the database, or this one was opened anew. Cheap."""
        with self.reading() as connection:
            version: int = connection.execute("PRAGMA data_version").fetchone()[0]
            return version

    @contextmanager
    def connected(self) -> Iterator[sqlite3.Connection]:
        """This thread's connection, which nobody closes meanwhile. Raises CloudQError after ``close``."""
        link = self._link()
        with link.lock:
            if link.connection is None:
                if self._closed:
                    raise CloudQError(f"SQLite {self.path} is closed: its app was, or its broker or store")
                link.connection = self._connect()
            yield link.connection

    def close(self) -> None:
        """Close every connection once its transaction is over; the database is not used afterwards."""
        self._closed = True
        with self._lock:
            links = list(self._links)
        for each in links:
            with each.lock:
                each.close()

    def _link(self) -> _Link:
        if self._memory is not None:
            return self._memory
        found: _Link | None = getattr(self._local, "link", None)
        if found is None:
            found = self._local.link = _Link()  # the thread's alone: it goes when the thread does
            with self._lock:
                self._links.add(found)
        return found

    def _begin(self, connection: sqlite3.Connection) -> None:
        deadline = time.monotonic() + _BUSY
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise self._unavailable(error) from error
                # SQLite's own busy handler is unfair to many short writers; a short random wait is not.
                time.sleep(random.uniform(0.0005, 0.003))
            else:
                return

    def _connect(self) -> sqlite3.Connection:
        try:
            if self.path is not None:
                Path(self.path).parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(
                self.path or ":memory:",
                timeout=0.05 if self.path else _BUSY,
                isolation_level=None,
                check_same_thread=False,  # closed by whoever notices that its thread has ended
            )
            self._patiently(connection, "PRAGMA journal_mode=WAL")
            connection.execute(f"PRAGMA synchronous={self._synchronous}")
            self._patiently(connection, None)
        except (sqlite3.Error, OSError) as error:
            raise StoreNotFound(f"the SQLite file {self.path} cannot be opened: {error}") from error
        return connection

    def _patiently(self, connection: sqlite3.Connection, pragma: str | None) -> None:
        """Set up while other processes may be doing the same."""
        deadline = time.monotonic() + _BUSY
        while True:
            try:
                if pragma is not None:
                    connection.execute(pragma)
                elif not self._is_set_up(connection):
                    connection.executescript(f"BEGIN IMMEDIATE; {self._tables.script}; COMMIT;")
            except sqlite3.OperationalError as error:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(random.uniform(0.001, 0.01))
            else:
                return

    def _is_set_up(self, connection: sqlite3.Connection) -> bool:
        found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (self._tables.last,))
        return found.fetchone() is not None

    def _unavailable(self, error: sqlite3.Error) -> ServiceUnavailable:
        return ServiceUnavailable(f"SQLite {self.path or 'in memory'}: {error}")

    # --- forks --------------------------------------------------------------------------------

    def before_fork(self) -> list[_Link]:
        """Hold everything still, with no file open; returns the links whose locks are now ours."""
        self._lock.acquire()
        links = list(self._links)
        for each in links:
            each.lock.acquire()
            if self._memory is None:
                each.close()
        return links

    def after_fork(self, links: list[_Link], child: bool) -> None:
        """Go on; in a child with nothing in memory, and nobody waiting."""
        for each in links:
            if child:
                each.connection = None
            each.lock.release()
        if child:
            self.bell = Bell()
        self._lock.release()


_databases: weakref.WeakSet[Database] = weakref.WeakSet()
_databases_lock = threading.Lock()
_held: list[tuple[Database, list[_Link]]] = []


def _before_fork() -> None:
    _databases_lock.acquire()
    _held.extend((each, each.before_fork()) for each in list(_databases))


def _after_fork(child: bool) -> None:
    while _held:
        database, links = _held.pop()
        database.after_fork(links, child)
    _databases_lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=lambda: _after_fork(False),
        after_in_child=lambda: _after_fork(True),
    )

_named: dict[tuple[str, str], Database] = {}
_named_lock = threading.Lock()


def open_database(kind: str, url: Url, tables: Tables) -> Database:
    """What a ``sqlite://`` or ``memory://`` URL means. ``memory://name`` is one database per process and
    ``kind``, whoever opens it and however often it is closed; ``memory://`` is another each time."""
    if url.scheme != "memory":
        return Database(path_of(url), tables, synchronous=synchronous_of(url))
    if not url.host:
        return Database(None, tables)
    with _named_lock:
        key = (kind, url.host)
        if key not in _named:
            _named[key] = Database(None, tables)
        return _named[key]


def path_of(url: Url) -> str:
    """``sqlite:///relative`` and ``sqlite:////absolute``."""
    if url.host or not url.path:
        raise ImproperlyConfigured(
            f"{url} names no file: sqlite:///relative/path.db (three slashes) or sqlite:////absolute/path.db (four)"
        )
    return url.path


def synchronous_of(url: Url) -> str:
    """The ``synchronous`` option: ``normal`` or ``full``."""
    value = url.query.get("synchronous", "normal").upper()
    if value not in ("NORMAL", "FULL"):
        raise ImproperlyConfigured(f"{url}: synchronous is normal or full")
    return value
