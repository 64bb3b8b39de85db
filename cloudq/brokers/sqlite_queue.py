"""Queues as SQLite tables: what the embedded broker does inside one transaction.

A message is received when ``visible_at`` has come; receiving moves it on. A FIFO group has a row of its
own that says when it is free: the latest ``visible_at`` of those of its messages that were received.
So no query ever looks at more than the messages it gives out, however long the queue is.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cloudq.brokers.base import Delivery, Message, is_fifo
from cloudq.ids import new_id

TABLES: Final = """
CREATE TABLE IF NOT EXISTS queues (
    name TEXT PRIMARY KEY, visibility REAL NOT NULL, max_receive INTEGER, dead TEXT, retention REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS messages (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT NOT NULL, id TEXT NOT NULL, body TEXT NOT NULL,
    attributes TEXT, group_id TEXT, dedup_id TEXT, sent_at REAL NOT NULL, visible_at REAL NOT NULL,
    receipt TEXT, receive_count INTEGER NOT NULL DEFAULT 0, first_received_at REAL
);
CREATE INDEX IF NOT EXISTS messages_next ON messages (queue, visible_at, seq);
CREATE UNIQUE INDEX IF NOT EXISTS messages_receipt ON messages (receipt) WHERE receipt IS NOT NULL;
CREATE INDEX IF NOT EXISTS messages_group ON messages (queue, group_id, seq) WHERE group_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS messages_held ON messages (queue, group_id, visible_at)
    WHERE group_id IS NOT NULL AND receive_count > 0;
CREATE TABLE IF NOT EXISTS dedup (
    queue TEXT NOT NULL, dedup_id TEXT NOT NULL, message_id TEXT NOT NULL, until REAL NOT NULL,
    PRIMARY KEY (queue, dedup_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS dedup_until ON dedup (until);
CREATE TABLE IF NOT EXISTS fifo_groups (
    queue TEXT NOT NULL, group_id TEXT NOT NULL, free_at REAL NOT NULL, head INTEGER NOT NULL,
    PRIMARY KEY (queue, group_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS fifo_groups_free ON fifo_groups (queue, free_at, head);
INSERT OR IGNORE INTO fifo_groups
    SELECT queue, group_id, MAX(CASE WHEN receive_count > 0 THEN visible_at ELSE 0 END), MIN(seq)
    FROM messages WHERE queue LIKE '%.fifo' GROUP BY queue, group_id
"""
#: There when all of them are: then nothing is set up (nor taken over from an earlier layout) again.
LAST_TABLE: Final = "fifo_groups"

#: SQS's own: a deduplication id is remembered this long, seconds.
DEDUP_WINDOW: Final = 300.0
#: Seconds that a message may wait to be received, in a queue and in a dead-letter queue.
RETENTION: Final = 345_600.0
DEAD_RETENTION: Final = 1_209_600.0
#: The most expired rows deleted in passing.
_SWEEP: Final = 1000

_SELECT: Final = (
    "SELECT seq, id, body, attributes, group_id, dedup_id, sent_at, receive_count, first_received_at "
    "FROM messages WHERE queue = ? AND "
)


@dataclass(frozen=True, slots=True)
class Settings:
    """One row of ``queues``. Seconds."""

    name: str
    visibility: float
    max_receive: int | None
    dead: str | None
    retention: float


def read_settings(db: sqlite3.Connection, queue: str) -> Settings | None:
    """The queue's settings, or None when there is no such queue."""
    row = db.execute(
        "SELECT name, visibility, max_receive, dead, retention FROM queues WHERE name = ?", (queue,)
    ).fetchone()
    return None if row is None else Settings(*row)


def create(db: sqlite3.Connection, settings: Settings) -> bool:
    """Make the queue; False when it is there already (and then stays as it is)."""
    row = (settings.name, settings.visibility, settings.max_receive, settings.dead, settings.retention)
    return db.execute("INSERT OR IGNORE INTO queues VALUES (?, ?, ?, ?, ?)", row).rowcount > 0


def empty(db: sqlite3.Connection, queue: str) -> None:
    """Delete every message."""
    db.execute("DELETE FROM messages WHERE queue = ?", (queue,))
    db.execute("DELETE FROM fifo_groups WHERE queue = ?", (queue,))


def next_statement(queue: str) -> str:
    """Selects the moment when the next message of the queue (a parameter) can be received."""
    if is_fifo(queue):
        return "SELECT MIN(free_at) FROM fifo_groups WHERE queue = ?"
    return "SELECT MIN(visible_at) FROM messages WHERE queue = ?"


# --- sending --------------------------------------------------------------------------------------


def insert(db: sqlite3.Connection, settings: Settings, messages: Sequence[Message], now: float) -> list[str]:
    """Add the messages; return their ids."""
    if is_fifo(settings.name):
        return _insert_in_order(db, settings.name, messages, now)
    ids = [new_id() for _ in messages]
    db.executemany(_INSERT, [_row(settings.name, *each, now) for each in zip(messages, ids, strict=True)])
    return ids


_INSERT: Final = (
    "INSERT INTO messages (queue, id, body, attributes, group_id, dedup_id, sent_at, visible_at) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)


def _row(queue: str, message: Message, message_id: str, now: float) -> tuple[Any, ...]:
    attributes = json.dumps(dict(message.attributes)) if message.attributes else None
    group_id, dedup_id = message.group_id, message.dedup_id
    if is_fifo(queue):  # unrelated messages get groups of their own, so that they run in parallel
        dedup_id = dedup_id or message_id
        group_id = group_id or dedup_id
    return queue, message_id, message.body, attributes, group_id, dedup_id, now, now + message.delay


def _insert_in_order(
    db: sqlite3.Connection, queue: str, messages: Sequence[Message], now: float
) -> list[str]:
    db.execute(
        "DELETE FROM dedup WHERE (queue, dedup_id) IN (SELECT queue, dedup_id FROM dedup WHERE until <= ? LIMIT ?)",
        (now, _SWEEP),
    )
    ids = []
    for message in messages:
        message_id = new_id()
        if message.dedup_id is not None:
            first = db.execute(
                "SELECT message_id FROM dedup WHERE queue = ? AND dedup_id = ? AND until > ?",
                (queue, message.dedup_id, now),
            ).fetchone()
            if first is not None:
                ids.append(first[0])
                continue
            db.execute(
                "INSERT OR REPLACE INTO dedup VALUES (?, ?, ?, ?)",
                (queue, message.dedup_id, message_id, now + DEDUP_WINDOW),
            )
        row = _row(queue, message, message_id, now)
        seq = db.execute(_INSERT, row).lastrowid
        _join_group(db, queue, row[4], now, seq)
        ids.append(message_id)
    return ids


def _join_group(db: sqlite3.Connection, queue: str, group_id: str, now: float, seq: int | None) -> None:
    """The group is free, unless it is there already: then what holds it goes on holding it."""
    db.execute("INSERT OR IGNORE INTO fifo_groups VALUES (?, ?, ?, ?)", (queue, group_id, now, seq))


# --- receiving ------------------------------------------------------------------------------------


def receive(
    db: sqlite3.Connection, settings: Settings, limit: int, now: float, invisible: float
) -> tuple[list[Delivery], bool]:
    """Up to ``limit`` deliveries, and whether a message went to the dead-letter queue on the way."""
    _sweep(db, settings, now)
    died = False
    while True:
        rows = list(_candidates(db, settings, limit, now))
        spent = [row for row in rows if _is_spent(settings, row)]
        if not spent:
            return _hand_out(db, settings.name, rows, now, invisible), died
        died = True
        for row in spent:
            _redrive(db, settings, row, now)


def _candidates(db: sqlite3.Connection, settings: Settings, limit: int, now: float) -> Iterator[Any]:
    since = now - settings.retention
    if not is_fifo(settings.name):
        yield from db.execute(
            _SELECT + "visible_at > ? AND visible_at <= ? ORDER BY visible_at, seq LIMIT ?",
            (settings.name, since, now, limit),
        ).fetchall()
        return
    groups = db.execute(
        "SELECT group_id FROM fifo_groups WHERE queue = ? AND free_at <= ? ORDER BY free_at, head LIMIT ?",
        (settings.name, now, limit),
    ).fetchall()
    for (group_id,) in groups:
        rows = db.execute(
            _SELECT + "group_id = ? AND +visible_at > ? ORDER BY seq LIMIT ?",
            (settings.name, group_id, since, limit),
        ).fetchall()
        yield from rows
        limit -= len(rows)
        if limit <= 0:
            return
        if not rows:  # swept away
            free_group(db, settings.name, group_id, now)


def _is_spent(settings: Settings, row: Any) -> bool:
    """Would this receipt be one too many? (SQS: ReceiveCount over maxReceiveCount.)"""
    return settings.dead is not None and settings.max_receive is not None and row[7] >= settings.max_receive


def _redrive(db: sqlite3.Connection, settings: Settings, row: Any, now: float) -> None:
    """To the dead-letter queue, with its id, as SQS does it."""
    seq, group_id = row[0], row[4]
    assert settings.dead is not None
    create(db, Settings(settings.dead, settings.visibility, None, None, DEAD_RETENTION))
    db.execute(
        "UPDATE messages SET queue = ?, receipt = NULL, visible_at = ? WHERE seq = ?",
        (settings.dead, now, seq),
    )
    if is_fifo(settings.name):
        _join_group(db, settings.dead, group_id, now, seq)
        free_group(db, settings.name, group_id, now)


def _hand_out(
    db: sqlite3.Connection, queue: str, rows: list[Any], now: float, invisible: float
) -> list[Delivery]:
    found = [_delivery(queue, row, os.urandom(12).hex(), now, invisible) for row in rows]
    db.executemany(
        "UPDATE messages SET receipt = ?, visible_at = ?, receive_count = ?, first_received_at = ? WHERE seq = ?",
        [
            (each.receipt, each.invisible_until, each.receive_count, each.first_received_at, row[0])
            for each, row in zip(found, rows, strict=True)
        ],
    )
    free_groups(db, found, now)
    return found


def _delivery(queue: str, row: Any, receipt: str, now: float, invisible: float) -> Delivery:
    _, message_id, body, attributes, group_id, dedup_id, sent_at, count, first = row
    return Delivery(
        queue=queue,
        message_id=message_id,
        body=body,
        receipt=receipt,
        receive_count=count + 1,
        sent_at=sent_at,
        first_received_at=now if first is None else first,
        received_at=now,
        invisible_until=now + invisible,
        group_id=group_id,
        dedup_id=dedup_id,
        attributes=json.loads(attributes) if attributes else {},
    )


def _sweep(db: sqlite3.Connection, settings: Settings, now: float) -> None:
    """Drop what nobody took in time. The time counts from when the message could last be received,
    not from its sending: a message delayed for a year is not late."""
    db.execute(
        "DELETE FROM messages WHERE seq IN "
        "(SELECT seq FROM messages WHERE queue = ? AND visible_at <= ? LIMIT ?)",
        (settings.name, now - settings.retention, _SWEEP),
    )


# --- groups ---------------------------------------------------------------------------------------


def move(db: sqlite3.Connection, delivery: Delivery, now: float, seconds: float, *, keep: bool) -> bool:
    """Have a held message invisible for ``seconds`` from now; False when it is not held by that receipt."""
    receipt = delivery.receipt if keep else None
    changed = db.execute(
        "UPDATE messages SET visible_at = ?, receipt = ? WHERE receipt = ? AND visible_at > ?",
        (now + seconds, receipt, delivery.receipt, now),
    )
    return changed.rowcount > 0


def free_groups(db: sqlite3.Connection, deliveries: Iterable[Delivery], now: float) -> bool:
    """After these messages were received, moved or deleted: when are their groups free?
    False when none of them is in a group."""
    groups = {(each.queue, each.group_id) for each in deliveries if is_fifo(each.queue)}
    for queue, group_id in groups:
        free_group(db, queue, group_id, now)
    return bool(groups)


def free_group(db: sqlite3.Connection, queue: str, group_id: str | None, now: float) -> None:
    """A group is free when its received messages are visible again or gone; an empty one is forgotten."""
    [held] = db.execute(
        "SELECT MAX(visible_at) FROM messages WHERE queue = ? AND group_id = ? AND receive_count > 0",
        (queue, group_id),
    ).fetchone()
    if held is None or held <= now:
        left = db.execute(
            "SELECT 1 FROM messages WHERE queue = ? AND group_id = ? LIMIT 1", (queue, group_id)
        ).fetchone()
        if left is None:
            db.execute("DELETE FROM fifo_groups WHERE queue = ? AND group_id = ?", (queue, group_id))
            return
    db.execute(
        "UPDATE fifo_groups SET free_at = ? WHERE queue = ? AND group_id = ?",
        (now if held is None else max(held, now), queue, group_id),
    )
