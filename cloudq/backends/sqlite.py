"""The embedded results store: SQLite, in a file or in memory."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final

from cloudq import sqlitedb
from cloudq.backends.base import (
    ALWAYS,
    Absent,
    BackendCapabilities,
    Condition,
    Entry,
    Matches,
    Version,
    check_folder,
    check_key,
)
from cloudq.clock import Clock
from cloudq.errors import Conflict, ValueTooLarge
from cloudq.sqlitedb import Database, Tables
from cloudq.url import Url

_SETUP: Final = """
CREATE TABLE IF NOT EXISTS entries (
    key TEXT PRIMARY KEY, folder TEXT NOT NULL, value BLOB NOT NULL, version TEXT NOT NULL, expires_at REAL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS entries_folder ON entries (folder, key);
CREATE INDEX IF NOT EXISTS entries_expiry ON entries (expires_at) WHERE expires_at IS NOT NULL
"""
TABLES: Final = Tables(_SETUP, "entries_expiry")
#: SQLite's own limit is a little under 1 GB; this is past any sensible result.
MAX_VALUE: Final = 512 * 1024 * 1024
#: Keys asked for in one statement.
_BATCH: Final = 500
#: Expired entries are swept every so many writes.
_SWEEP_EVERY: Final = 500


class SqliteBackend:
    """Conditional writes by transactions; safe across threads and processes.

    ``database``: use this one, which others in this process may share, instead of opening ``path``.
    """

    def __init__(
        self,
        path: str | None,
        clock: Clock,
        *,
        synchronous: str = "NORMAL",
        shown: str = "",
        database: Database | None = None,
    ) -> None:
        self._database = database or Database(path, TABLES, synchronous=synchronous)
        path = self._database.path
        self._clock = clock
        self._writes = 0
        self.url = shown or ("memory://" if path is None else f"sqlite:///{path}")
        self.capabilities = BackendCapabilities(
            max_value=MAX_VALUE,
            conflict_has_entry=True,
            batch_read=_BATCH,
            reach="process" if path is None else "machine",
        )

    def read(self, key: str) -> Entry | None:
        check_key(key)
        with self._database.reading() as db:
            row = db.execute(
                "SELECT value, version, expires_at FROM entries WHERE key = ?", (key,)
            ).fetchone()
        return self._alive(row)

    def read_many(self, keys: Iterable[str]) -> dict[str, Entry]:
        remaining = iter([check_key(key) for key in dict.fromkeys(keys)])
        found: dict[str, Entry] = {}
        while batch := list(islice(remaining, _BATCH)):
            marks = ",".join("?" * len(batch))
            statement = f"SELECT key, value, version, expires_at FROM entries WHERE key IN ({marks})"  # noqa: S608  question marks
            with self._database.reading() as db:
                rows = db.execute(statement, batch).fetchall()
            for key, *rest in rows:
                if (entry := self._alive(rest)) is not None:
                    found[key] = entry
        return found

    def write(
        self, key: str, value: bytes, when: Condition = ALWAYS, expires_at: float | None = None
    ) -> Version:
        check_key(key)
        if len(value) > MAX_VALUE:
            raise ValueTooLarge(f"{key} in {self.url}: {len(value)} bytes are over the limit of {MAX_VALUE}")
        version = Version(os.urandom(9).hex())
        with self._database.transaction() as db:
            self._require(db, key, when)
            db.execute(
                "INSERT OR REPLACE INTO entries (key, folder, value, version, expires_at) VALUES (?, ?, ?, ?, ?)",
                (key, _folder(key), value, version, expires_at),
            )
            self._sweep(db)
        return version

    def delete(self, key: str, when: Condition = ALWAYS) -> None:
        check_key(key)
        if isinstance(when, Absent):
            raise ValueError("delete(when=ABSENT) makes no sense")
        with self._database.transaction() as db:
            self._require(db, key, when)
            db.execute("DELETE FROM entries WHERE key = ?", (key,))

    def keys(self, prefix: str) -> Iterator[str]:
        check_folder(prefix)
        after = ""
        while True:
            with self._database.reading() as db:
                rows = db.execute(
                    "SELECT key FROM entries WHERE folder = ? AND key > ? "
                    "AND (expires_at IS NULL OR expires_at > ?) ORDER BY key LIMIT 1000",
                    (prefix, after, self._clock.time()),
                ).fetchall()
            yield from (row[0] for row in rows)
            if len(rows) < 1000:
                return
            after = rows[-1][0]

    def close(self) -> None:
        if self._database.path is not None:
            self._database.close()

    def _require(self, db: sqlite3.Connection, key: str, when: Condition) -> None:
        if when is ALWAYS:
            return
        row = db.execute("SELECT value, version, expires_at FROM entries WHERE key = ?", (key,)).fetchone()
        present = self._alive(row)
        if isinstance(when, Absent) and present is not None:
            raise Conflict(key, present)
        if isinstance(when, Matches) and (present is None or present.version != when.version):
            raise Conflict(key, present)

    def _alive(self, row: Any) -> Entry | None:
        if row is None or (row[2] is not None and row[2] <= self._clock.time()):
            return None
        return Entry(bytes(row[0]), Version(row[1]), row[2])

    def _sweep(self, db: sqlite3.Connection) -> None:
        self._writes += 1
        if self._writes % _SWEEP_EVERY == 0:
            db.execute("DELETE FROM entries WHERE expires_at <= ?", (self._clock.time(),))


def _folder(key: str) -> str:
    return key[: key.rfind("/") + 1]


def from_url(url: Url, clock: Clock) -> SqliteBackend:
    """``sqlite:///path?synchronous=normal|full``, ``memory://`` or ``memory://name``."""
    url.options(("synchronous", "visibility_timeout", "max_receive_count"))
    return SqliteBackend(None, clock, shown=str(url), database=sqlitedb.open_database("backend", url, TABLES))
