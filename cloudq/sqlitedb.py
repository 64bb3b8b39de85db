"""SQLite connections for the embedded broker and store: one per thread and process, short transactions.

A file is opened in WAL mode. ``synchronous=NORMAL`` (the default) survives the death of any process;
``FULL`` also survives the loss of power, at the price of a disk flush per transaction.
``memory://`` is one connection behind a lock.
"""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from cloudq.errors import ImproperlyConfigured, ServiceUnavailable, StoreNotFound
from cloudq.url import Url

#: Seconds that a transaction waits for another process's.
_BUSY: Final = 30.0


class Database:
    """One SQLite database. ``setup`` creates the tables; it may run many times."""

    def __init__(self, path: str | None, setup: str, *, synchronous: str = "NORMAL") -> None:
        self.path = path
        self._setup = setup
        self._synchronous = synchronous
        self._local = threading.local()
        self._lock = threading.RLock()
        self._all: list[sqlite3.Connection] = []
        self._pid = os.getpid()
        self._memory = self._connect() if path is None else None
        if path is not None:
            self.connection()

    def connection(self) -> sqlite3.Connection:
        """This thread's connection; a forked child never uses its parent's."""
        if self._memory is not None:
            return self._memory
        found: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if found is None or self._local.pid != os.getpid():
            found = self._local.connection = self._connect()
            self._local.pid = os.getpid()
        return found

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A write transaction: all of the block, or nothing. Raises ServiceUnavailable when locked out."""
        with self._exclusive():
            connection = self.connection()
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
        with self._exclusive():
            try:
                yield self.connection()
            except sqlite3.OperationalError as error:
                raise self._unavailable(error) from error

    def data_version(self) -> int:
        """Changes when another connection has changed the database. Cheap."""
        with self._exclusive():
            version: int = self.connection().execute("PRAGMA data_version").fetchone()[0]
            return version

    def close(self) -> None:
        """Close every connection this process has opened."""
        with self._lock:
            if self._pid == os.getpid():
                for each in self._all:
                    each.close()
            self._all.clear()

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        if self._memory is None:
            yield
            return
        with self._lock:
            yield

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
                check_same_thread=False,
            )
            self._patiently(connection, "PRAGMA journal_mode=WAL")
            connection.execute(f"PRAGMA synchronous={self._synchronous}")
            self._patiently(connection, None)
        except (sqlite3.Error, OSError) as error:
            raise StoreNotFound(f"the SQLite file {self.path} cannot be opened: {error}") from error
        with self._lock:
            self._all.append(connection)
        return connection

    def _patiently(self, connection: sqlite3.Connection, pragma: str | None) -> None:
        """Set up while other processes may be doing the same."""
        deadline = time.monotonic() + _BUSY
        while True:
            try:
                if pragma is not None:
                    connection.execute(pragma)
                else:
                    connection.executescript(f"BEGIN IMMEDIATE; {self._setup} COMMIT;")
            except sqlite3.OperationalError as error:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(random.uniform(0.001, 0.01))
            else:
                return

    def _unavailable(self, error: sqlite3.Error) -> ServiceUnavailable:
        return ServiceUnavailable(f"SQLite {self.path or 'in memory'}: {error}")


_named: dict[tuple[str, str], Any] = {}
_named_lock = threading.Lock()


def open_named(kind: str, url: Url, make: Callable[[str | None], Any]) -> Any:
    """Make what a ``sqlite://`` or ``memory://`` URL means. ``memory://name`` is shared by its name."""
    if url.scheme != "memory":
        return make(path_of(url))
    if not url.host:
        return make(None)
    with _named_lock:
        key = (kind, url.host)
        if key not in _named:
            _named[key] = make(None)
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
