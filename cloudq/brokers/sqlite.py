"""The embedded broker: SQS's semantics on SQLite, in a file or in memory.

Visibility timeouts, receive counts, delays, FIFO groups, deduplication and dead letters work as on
SQS. Queues come into being when they are first used. A committed message survives the death of any
process; what a transaction had not committed never happened.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from cloudq import sqlitedb
from cloudq.brokers.base import (
    BURIED_AT,
    DETAIL,
    ORIGIN,
    REASON,
    BrokerCapabilities,
    Delivery,
    Message,
    QueueDepth,
    QueueInfo,
    QueueSpec,
    Refused,
    dead_letter_name,
    is_fifo,
    message_size,
)
from cloudq.clock import Clock
from cloudq.errors import MessageTooLarge, NoDeadLetterQueue, Unsupported
from cloudq.sqlitedb import Database
from cloudq.url import Url

_SETUP = """
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
CREATE TABLE IF NOT EXISTS dedup (
    queue TEXT NOT NULL, dedup_id TEXT NOT NULL, message_id TEXT NOT NULL, until REAL NOT NULL,
    PRIMARY KEY (queue, dedup_id)
) WITHOUT ROWID;
"""

#: SQS's own: a deduplication id is remembered this long, seconds.
DEDUP_WINDOW: Final = 300.0
RETENTION: Final = 345_600.0
DEAD_RETENTION: Final = 1_209_600.0
#: Seconds between two looks for what another process has done: first, and when nothing happens.
_LOOK_FIRST, _LOOK_LAST = 0.008, 0.05
#: Expired messages are swept every so many sends.
_SWEEP_EVERY: Final = 200

_COLUMNS = "seq, id, body, attributes, group_id, dedup_id, sent_at, receive_count, first_received_at"


class SqliteBroker:
    """Broker and QueueAdmin over one database; safe across threads and processes."""

    def __init__(
        self,
        path: str | None,
        clock: Clock,
        *,
        synchronous: str = "NORMAL",
        visibility_timeout: float = 60.0,
        max_receive_count: int = 5,
        max_body: int = 1_048_576,
        shown: str = "",
    ) -> None:
        self._database = Database(path, _SETUP, synchronous=synchronous)
        self._clock = clock
        self._visibility = visibility_timeout
        self._max_receive = max_receive_count
        self._changed = threading.Condition()
        self._stamp = 0
        self._closed = False
        self._known: dict[str, QueueInfo] = {}
        self._sends = 0
        self.url = shown or ("memory://" if path is None else f"sqlite:///{path}")
        self.capabilities = BrokerCapabilities(
            max_body=max_body, max_delay=315_360_000.0, reach="process" if path is None else "machine"
        )

    # --- sending ------------------------------------------------------------------------------

    def send(self, queue: str, messages: Sequence[Message]) -> list[str]:
        for each in messages:
            self._check(queue, each)
        with self._database.transaction() as db:
            self._ensure(db, queue)
            now = self._clock.time()
            ids = [self._insert(db, queue, each, now) for each in messages]
            self._sweep(db, now)
        self._news()
        return ids

    def _check(self, queue: str, message: Message) -> None:
        size, limit = message_size(message), self.capabilities.max_body
        if size > limit:
            raise MessageTooLarge(f"a message for {queue} has {size} bytes; the limit is {limit}")
        if message.delay and is_fifo(queue):
            raise Unsupported(f"the FIFO queue {queue} takes no delay per message (an SQS rule)")
        if not 0 <= message.delay <= self.capabilities.max_delay:
            raise Unsupported(
                f"a delay is 0 to {self.capabilities.max_delay:g} seconds, got {message.delay:g}"
            )

    def _insert(self, db: sqlite3.Connection, queue: str, message: Message, now: float) -> str:
        message_id = str(uuid.UUID(bytes=os.urandom(16), version=4))
        group_id, dedup_id = message.group_id, message.dedup_id
        if is_fifo(queue):
            dedup_id = dedup_id or message_id
            group_id = group_id or dedup_id
            row = db.execute(
                "SELECT message_id FROM dedup WHERE queue = ? AND dedup_id = ? AND until > ?",
                (queue, dedup_id, now),
            ).fetchone()
            if row is not None:
                first: str = row[0]
                return first
            db.execute(
                "INSERT OR REPLACE INTO dedup (queue, dedup_id, message_id, until) VALUES (?, ?, ?, ?)",
                (queue, dedup_id, message_id, now + DEDUP_WINDOW),
            )
        attributes = json.dumps(dict(message.attributes)) if message.attributes else None
        db.execute(
            "INSERT INTO messages (queue, id, body, attributes, group_id, dedup_id, sent_at, visible_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (queue, message_id, message.body, attributes, group_id, dedup_id, now, now + message.delay),
        )
        return message_id

    # --- receiving ----------------------------------------------------------------------------

    def receive(self, queue: str, limit: int, wait: float, invisible: float) -> list[Delivery]:
        limit = max(1, min(limit, self.capabilities.max_batch))
        deadline = self._clock.monotonic() + wait
        look = _LOOK_FIRST
        while True:
            with self._changed:
                stamp, closed = self._stamp, self._closed
            if closed:
                return []
            try:
                version = self._database.data_version() if self._database.path else 0
                found, next_at = self._take(queue, limit, invisible)
                if found:
                    return found
                if not self._sleep(deadline, next_at, stamp, version, look):
                    return []
            except sqlite3.ProgrammingError:
                if self._closed:  # by another thread, while we were looking
                    return []
                raise
            look = min(_LOOK_LAST, look * 1.3)

    def _take(self, queue: str, limit: int, invisible: float) -> tuple[list[Delivery], float | None]:
        """Some deliveries, or when the next message will be visible."""
        now = self._clock.time()
        if queue in self._known:  # an idle poll only reads: no lock for the others
            with self._database.reading() as db:
                row = db.execute("SELECT MIN(visible_at) FROM messages WHERE queue = ?", (queue,)).fetchone()
            if row[0] is None or row[0] > now:
                return [], row[0]
        with self._database.transaction() as db:
            info = self._ensure(db, queue)
            taken: list[Delivery] = []
            while len(taken) < limit:
                rows = self._candidates(db, queue, limit - len(taken), now)
                fresh = [row for row in rows if not self._redrive(db, info, row)]
                taken += [self._mark(db, queue, row, now, invisible) for row in fresh]
                if len(fresh) == len(rows):
                    break
            return taken, None if taken else self._next_visible(db, queue, now)

    def _candidates(self, db: sqlite3.Connection, queue: str, limit: int, now: float) -> list[Any]:
        if not is_fifo(queue):
            return db.execute(
                f"SELECT {_COLUMNS} FROM messages WHERE queue = ? AND visible_at <= ? ORDER BY visible_at, seq LIMIT ?",  # noqa: S608
                (queue, now, limit),
            ).fetchall()
        # A group is blocked while one of its messages is in flight; its messages come in order.
        return db.execute(
            f"SELECT {_COLUMNS} FROM messages WHERE queue = ? AND visible_at <= ? AND NOT EXISTS ("  # noqa: S608
            "SELECT 1 FROM messages other WHERE other.queue = messages.queue AND other.group_id = messages.group_id"
            " AND other.visible_at > ? AND other.seq != messages.seq AND other.receive_count > 0"
            ") ORDER BY seq LIMIT ?",
            (queue, now, now, limit),
        ).fetchall()

    def _redrive(self, db: sqlite3.Connection, info: QueueInfo, row: Any) -> bool:
        """Move a message that was received too often to the dead-letter queue."""
        if (
            info.max_receive_count is None
            or info.dead_letter_queue is None
            or row[7] < info.max_receive_count
        ):
            return False
        self._ensure(db, info.dead_letter_queue, dead=True)
        db.execute(
            "UPDATE messages SET queue = ?, receipt = NULL, visible_at = ? WHERE seq = ?",
            (info.dead_letter_queue, self._clock.time(), row[0]),
        )
        return True

    def _mark(self, db: sqlite3.Connection, queue: str, row: Any, now: float, invisible: float) -> Delivery:
        seq, message_id, body, attributes, group_id, dedup_id, sent_at, count, first = row
        receipt = os.urandom(12).hex()
        first = first if first is not None else now
        db.execute(
            "UPDATE messages SET receipt = ?, visible_at = ?, receive_count = ?, first_received_at = ? WHERE seq = ?",
            (receipt, now + invisible, count + 1, first, seq),
        )
        return Delivery(
            queue=queue,
            message_id=message_id,
            body=body,
            receipt=receipt,
            receive_count=count + 1,
            sent_at=sent_at,
            first_received_at=first,
            received_at=now,
            invisible_until=now + invisible,
            group_id=group_id,
            dedup_id=dedup_id,
            attributes=json.loads(attributes) if attributes else {},
        )

    def _next_visible(self, db: sqlite3.Connection, queue: str, now: float) -> float | None:
        row = db.execute(
            "SELECT MIN(visible_at) FROM messages WHERE queue = ? AND visible_at > ?", (queue, now)
        ).fetchone()
        found: float | None = row[0]
        return found

    def _sleep(self, deadline: float, next_at: float | None, stamp: int, version: int, look: float) -> bool:
        """Wait until something may have changed; False when the time is up."""
        while True:
            rest = deadline - self._clock.monotonic()
            if rest <= 0 or self._closed:
                return False
            until_next = float("inf") if next_at is None else next_at - self._clock.time()
            if until_next <= 0:
                return True
            pause = min(rest, until_next)
            if self._database.path is not None:
                pause = min(pause, look)  # other processes cannot wake us
            with self._changed:
                if self._stamp == stamp and not self._closed:
                    self._clock.wait(self._changed, pause)
                if self._stamp != stamp:
                    return True
            if self._database.path is not None and self._database.data_version() != version:
                return True
            look = min(_LOOK_LAST, look * 1.3)

    # --- settling -----------------------------------------------------------------------------

    def ack(self, deliveries: Sequence[Delivery]) -> list[Refused]:
        with self._database.transaction() as db:
            for each in deliveries:
                db.execute("DELETE FROM messages WHERE receipt = ?", (each.receipt,))
        if any(is_fifo(each.queue) for each in deliveries):
            self._news()  # the group is free
        return []

    def release(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> list[Refused]:
        refused = self._move(deliveries, delay, keep_receipt=False)
        self._news()
        return refused

    def extend(self, deliveries: Sequence[Delivery], invisible: float) -> list[Refused]:
        return self._move(deliveries, invisible, keep_receipt=True)

    def _move(self, deliveries: Sequence[Delivery], seconds: float, *, keep_receipt: bool) -> list[Refused]:
        refused = []
        with self._database.transaction() as db:
            now = self._clock.time()
            for each in deliveries:
                changed = db.execute(
                    "UPDATE messages SET visible_at = ?, receipt = ? WHERE receipt = ? AND visible_at > ?",
                    (now + seconds, each.receipt if keep_receipt else None, each.receipt, now),
                ).rowcount
                if not changed:
                    refused.append(
                        Refused(each, "ReceiptHandleIsInvalid", "it is no longer in flight for us", True)
                    )
        return refused

    def bury(self, delivery: Delivery, reason: str, detail: str = "") -> None:
        info = self.describe(delivery.queue)
        if info.dead_letter_queue is None:
            raise NoDeadLetterQueue(f"queue {delivery.queue} has no dead-letter queue")
        now = self._clock.time()
        attributes = {
            **delivery.attributes,
            REASON: reason,
            DETAIL: detail[:2000],
            ORIGIN: delivery.queue,
            BURIED_AT: datetime.fromtimestamp(now, UTC).isoformat(),
        }
        message = Message(
            delivery.body, group_id=delivery.group_id, dedup_id=delivery.message_id, attributes=attributes
        )
        with self._database.transaction() as db:  # both or neither
            self._ensure(db, info.dead_letter_queue, dead=True)
            self._insert(db, info.dead_letter_queue, message, now)
            db.execute("DELETE FROM messages WHERE receipt = ?", (delivery.receipt,))
        self._news()

    # --- looking ------------------------------------------------------------------------------

    def describe(self, queue: str) -> QueueInfo:
        if queue not in self._known:
            with self._database.transaction() as db:
                self._ensure(db, queue)
        return self._known[queue]

    def depth(self, queue: str) -> QueueDepth:
        now = self._clock.time()
        with self._database.reading() as db:
            row = db.execute(
                "SELECT COUNT(*) FILTER (WHERE visible_at <= ?1), "
                "COUNT(*) FILTER (WHERE visible_at > ?1 AND receipt IS NOT NULL), "
                "COUNT(*) FILTER (WHERE visible_at > ?1 AND receipt IS NULL) FROM messages WHERE queue = ?2",
                (now, queue),
            ).fetchone()
        return QueueDepth(*row)

    def next_visible(self, queue: str) -> float | None:
        """When the next message of the queue can be received (epoch seconds), or None when it is empty."""
        with self._database.reading() as db:
            row = db.execute("SELECT MIN(visible_at) FROM messages WHERE queue = ?", (queue,)).fetchone()
        found: float | None = row[0]
        return found

    def purge(self, queue: str) -> None:
        with self._database.transaction() as db:
            db.execute("DELETE FROM messages WHERE queue = ?", (queue,))

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._database.path is not None:
            self._database.close()

    # --- administration -----------------------------------------------------------------------

    def create_queue(self, spec: QueueSpec) -> list[str]:
        """Create or leave alone; as SQS's ``CreateQueue``, with the dead-letter queue."""
        dead = spec.dead_letter_queue or dead_letter_name(spec.name)
        with self._database.transaction() as db:
            made = [
                name
                for name, row in (
                    (dead, (dead, spec.visibility_timeout, None, None, DEAD_RETENTION)),
                    (
                        spec.name,
                        (spec.name, spec.visibility_timeout, spec.max_receive_count, dead, spec.retention),
                    ),
                )
                if db.execute("INSERT OR IGNORE INTO queues VALUES (?, ?, ?, ?, ?)", row).rowcount
            ]
        return list(reversed(made))

    def delete_queue(self, queue: str) -> None:
        with self._database.transaction() as db:
            db.execute("DELETE FROM messages WHERE queue = ?", (queue,))
            db.execute("DELETE FROM queues WHERE name = ?", (queue,))
        self._known.pop(queue, None)

    def list_queues(self, prefix: str = "") -> Iterable[str]:
        with self._database.reading() as db:
            rows = db.execute("SELECT name FROM queues ORDER BY name").fetchall()
        return [row[0] for row in rows if row[0].startswith(prefix)]

    # --- parts --------------------------------------------------------------------------------

    def _ensure(self, db: sqlite3.Connection, queue: str, *, dead: bool = False) -> QueueInfo:
        found = self._known.get(queue)
        if found is not None:
            return found
        row = db.execute(
            "SELECT visibility, max_receive, dead FROM queues WHERE name = ?", (queue,)
        ).fetchone()
        if row is None:
            is_dead = dead or queue.removesuffix(".fifo").endswith("-dlq")
            row = (
                (self._visibility, None, None)
                if is_dead
                else (self._visibility, self._max_receive, dead_letter_name(queue))
            )
            retention = DEAD_RETENTION if is_dead else RETENTION
            db.execute("INSERT INTO queues VALUES (?, ?, ?, ?, ?)", (queue, *row, retention))
        info = QueueInfo(queue, is_fifo(queue), row[0], row[2], row[1])
        self._known[queue] = info
        return info

    def _sweep(self, db: sqlite3.Connection, now: float) -> None:
        self._sends += 1
        if self._sends % _SWEEP_EVERY:
            return
        db.execute("DELETE FROM dedup WHERE until <= ?", (now,))
        db.execute(
            "DELETE FROM messages WHERE sent_at < ? - (SELECT retention FROM queues WHERE name = messages.queue) "
            "AND seq IN (SELECT seq FROM messages ORDER BY seq LIMIT 1000)",
            (now,),
        )

    def _news(self) -> None:
        with self._changed:
            self._stamp += 1
            self._changed.notify_all()


def from_url(url: Url, clock: Clock) -> SqliteBroker:
    """``sqlite:///path``, ``memory://`` or ``memory://name``, with ``visibility_timeout`` (seconds),
    ``max_receive_count`` and ``synchronous`` for queues that do not exist yet."""
    url.options(("synchronous", "visibility_timeout", "max_receive_count"))
    made: SqliteBroker = sqlitedb.open_named(
        "broker",
        url,
        lambda path: SqliteBroker(
            path,
            clock,
            synchronous=sqlitedb.synchronous_of(url),
            visibility_timeout=url.number("visibility_timeout", 60.0, 0.0, 43_200.0),
            max_receive_count=int(url.number("max_receive_count", 5, 1, 1000)),
            shown=str(url),
        ),
    )
    return made
