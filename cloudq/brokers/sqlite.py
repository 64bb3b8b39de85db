"""The embedded broker: SQS's semantics on SQLite, in a file or in memory.

Visibility timeouts, receive counts, delays, FIFO groups, deduplication and dead letters work as on
SQS. Queues come into being when they are first used. A committed message survives the death of any
process; what a transaction had not committed never happened. What happens inside of a transaction is
told in ``sqlite_queue``.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

from cloudq import sqlitedb
from cloudq.brokers import sqlite_queue
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
from cloudq.brokers.sqlite_queue import DEAD_RETENTION, RETENTION, Settings
from cloudq.clock import Clock
from cloudq.errors import CloudQError, MessageTooLarge, NoDeadLetterQueue, Unsupported
from cloudq.sqlitedb import Database, Tables
from cloudq.url import Url

TABLES: Final = Tables(sqlite_queue.TABLES, sqlite_queue.LAST_TABLE)
#: Longest delay by itself, seconds: what is revoked must come by before workers forget that (four days).
MAX_DELAY: Final = 86_400.0
#: Seconds between two looks for what another process has done: first, and when nothing happens.
_LOOK_FIRST, _LOOK_LAST = 0.008, 0.05


class SqliteBroker:
    """Broker and QueueAdmin over one database; safe across threads and processes.

    ``database``: use this one, which others in this process may share, instead of opening ``path``.
    """

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
        database: Database | None = None,
    ) -> None:
        self._database = database or Database(path, TABLES, synchronous=synchronous)
        self._clock = clock
        self._visibility = visibility_timeout
        self._max_receive = max_receive_count
        self._shut = threading.Event()
        self._known: dict[str, Settings] = {}
        path = self._database.path
        self.url = shown or ("memory://" if path is None else f"sqlite:///{path}")
        self.capabilities = BrokerCapabilities(
            max_body=max_body, max_delay=MAX_DELAY, reach="process" if path is None else "machine"
        )

    # --- sending ------------------------------------------------------------------------------

    def send(self, queue: str, messages: Sequence[Message]) -> list[str]:
        for each in messages:
            self._check(queue, each)
        with self._database.transaction() as db:
            ids = sqlite_queue.insert(db, self._settings(db, queue), messages, self._clock.time())
        self._database.bell.ring()
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

    # --- receiving ----------------------------------------------------------------------------

    def receive(self, queue: str, limit: int, wait: float, invisible: float) -> list[Delivery]:
        limit = max(1, min(limit, self.capabilities.max_batch))
        deadline = self._clock.monotonic() + wait
        look = _LOOK_FIRST
        while not self._shut.is_set():
            stamp = self._database.bell.stamp
            try:
                version = self._database.data_version() if self._database.path else 0
                found, next_at = self._take(queue, limit, invisible)
                if found or not self._sleep(deadline, next_at, stamp, version, look):
                    return found
            except CloudQError:
                if self._shut.is_set():  # by another thread, while we were looking
                    return []
                raise
            look = min(_LOOK_LAST, look * 1.3)
        return []

    def _take(self, queue: str, limit: int, invisible: float) -> tuple[list[Delivery], float | None]:
        """Some deliveries, or when the next message will be visible."""
        now = self._clock.time()
        if queue in self._known:  # an idle poll only reads: no lock for the others
            next_at = self.next_visible(queue)
            if next_at is None or next_at > now:
                return [], next_at
        with self._database.transaction() as db:
            settings = self._settings(db, queue)
            found, died = sqlite_queue.receive(db, settings, limit, now, invisible)
        if died:
            self._database.bell.ring()  # for who waits on the dead-letter queue
        return found, None if found else self.next_visible(queue)

    def _sleep(self, deadline: float, next_at: float | None, stamp: int, version: int, look: float) -> bool:
        """Wait until something may have changed; False when the time is up."""
        bell = self._database.bell
        while True:
            rest = deadline - self._clock.monotonic()
            if rest <= 0 or self._shut.is_set():
                return False
            until_next = float("inf") if next_at is None else next_at - self._clock.time()
            if until_next <= 0:
                return True
            pause = min(rest, until_next)
            if self._database.path is not None:
                pause = min(pause, look)  # other processes cannot wake us
            with bell.changed:
                if bell.stamp == stamp and not self._shut.is_set():
                    self._clock.wait(bell.changed, pause)
                if bell.stamp != stamp:
                    return True
            if self._database.path is not None and self._database.data_version() != version:
                return True
            look = min(_LOOK_LAST, look * 1.3)

    # --- settling -----------------------------------------------------------------------------

    def ack(self, deliveries: Sequence[Delivery]) -> list[Refused]:
        with self._database.transaction() as db:
            db.executemany("DELETE FROM messages WHERE receipt = ?", [(each.receipt,) for each in deliveries])
            freed = sqlite_queue.free_groups(db, deliveries, self._clock.time())
        if freed:
            self._database.bell.ring()
        return []

    def release(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> list[Refused]:
        refused = self._move(deliveries, delay, keep=False)
        self._database.bell.ring()
        return refused

    def extend(self, deliveries: Sequence[Delivery], invisible: float) -> list[Refused]:
        return self._move(deliveries, invisible, keep=True)

    def _move(self, deliveries: Sequence[Delivery], seconds: float, *, keep: bool) -> list[Refused]:
        with self._database.transaction() as db:
            now = self._clock.time()
            refused = [
                Refused(each, "ReceiptHandleIsInvalid", "it is no longer in flight for us", True)
                for each in deliveries
                if not sqlite_queue.move(db, each, now, seconds, keep=keep)
            ]
            sqlite_queue.free_groups(db, deliveries, now)
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
            dead = self._settings(db, info.dead_letter_queue, dead=True)
            sqlite_queue.insert(db, dead, [message], now)
            db.execute("DELETE FROM messages WHERE receipt = ?", (delivery.receipt,))
            sqlite_queue.free_groups(db, [delivery], now)
        self._database.bell.ring()

    # --- looking ------------------------------------------------------------------------------

    def describe(self, queue: str) -> QueueInfo:
        found = self._known.get(queue)
        if found is None:
            with self._database.transaction() as db:
                found = self._settings(db, queue)
        return QueueInfo(queue, is_fifo(queue), found.visibility, found.dead, found.max_receive)

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
            row = db.execute(sqlite_queue.next_statement(queue), (queue,)).fetchone()
        found: float | None = row[0]
        return found

    def purge(self, queue: str) -> None:
        with self._database.transaction() as db:
            sqlite_queue.empty(db, queue)

    def close(self) -> None:
        self._shut.set()
        self._database.bell.ring()
        if self._database.path is not None:
            self._database.close()

    # --- administration -----------------------------------------------------------------------

    def create_queue(self, spec: QueueSpec) -> list[str]:
        """Create or leave alone; as SQS's ``CreateQueue``, with the dead-letter queue."""
        dead = spec.dead_letter_queue or dead_letter_name(spec.name)
        rows = (
            Settings(spec.name, spec.visibility_timeout, spec.max_receive_count, dead, spec.retention),
            Settings(dead, spec.visibility_timeout, None, None, DEAD_RETENTION),
        )
        with self._database.transaction() as db:
            return [each.name for each in rows if sqlite_queue.create(db, each)]

    def delete_queue(self, queue: str) -> None:
        with self._database.transaction() as db:
            sqlite_queue.empty(db, queue)
            db.execute("DELETE FROM queues WHERE name = ?", (queue,))
        self._known.pop(queue, None)

    def list_queues(self, prefix: str = "") -> Iterable[str]:
        with self._database.reading() as db:
            rows = db.execute("SELECT name FROM queues ORDER BY name").fetchall()
        return [row[0] for row in rows if row[0].startswith(prefix)]

    # --- parts --------------------------------------------------------------------------------

    def _settings(self, db: sqlite3.Connection, queue: str, *, dead: bool = False) -> Settings:
        """The queue's settings; it comes into being when it is not there."""
        found = self._known.get(queue) or sqlite_queue.read_settings(db, queue)
        if found is None:
            if dead or queue.removesuffix(".fifo").endswith("-dlq"):
                found = Settings(queue, self._visibility, None, None, DEAD_RETENTION)
            else:
                found = Settings(
                    queue, self._visibility, self._max_receive, dead_letter_name(queue), RETENTION
                )
            sqlite_queue.create(db, found)
        self._known[queue] = found
        return found


def from_url(url: Url, clock: Clock) -> SqliteBroker:
    """``sqlite:///path``, ``memory://`` or ``memory://name``, with ``visibility_timeout`` (seconds),
    ``max_receive_count`` and ``synchronous`` for queues that do not exist yet."""
    url.options(("synchronous", "visibility_timeout", "max_receive_count"))
    return SqliteBroker(
        None,
        clock,
        visibility_timeout=url.number("visibility_timeout", 60.0, 0.0, 43_200.0),
        max_receive_count=int(url.number("max_receive_count", 5, 1, 1000)),
        shown=str(url),
        database=sqlitedb.open_database("broker", url, TABLES),
    )
