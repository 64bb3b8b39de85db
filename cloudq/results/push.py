"""Results announced through a queue (``result_push``), so that a waiter need not keep reading.

The client names its reply queue in each message it sends; whoever settles the task sends a word
there after the record is written; the client long-polls the queue in one thread while anybody
waits, and reads a record when it is announced. An announcement is a hint and nothing more: one that
is lost costs time, because the poller goes on looking at its slowest pace.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import Final

import msgspec

from cloudq.brokers.base import Broker, Delivery, is_fifo
from cloudq.conf import Conf
from cloudq.errors import ImproperlyConfigured
from cloudq.results.poller import Poller
from cloudq.results.record import Record

logger = logging.getLogger("cloudq.results")

#: The header of a message that names the queue to announce its end to.
REPLY_TO: Final = "cloudq-reply-to"
#: Seconds before a queue that could not be read is tried again.
_AWAY: Final = 5.0
#: Seconds an announcement stays invisible while it is handled.
_INVISIBLE: Final = 30.0


def reply_queue(conf: Conf) -> str | None:
    """The queue that this process's results are announced to, or None without ``result_push``."""
    if not conf.result_push:
        return None
    queue: str | None = conf.result_push_queue
    if not queue:
        raise ImproperlyConfigured(
            "result_push needs result_push_queue: the name of an existing queue that only this process reads"
        )
    if is_fifo(queue):
        raise ImproperlyConfigured(f"result_push_queue: {queue} is a FIFO queue; a standard queue is needed")
    return queue


def announcement(record: Record) -> str:
    """The body of the word that a task has ended."""
    return msgspec.json.encode({"id": record.id, "state": record.state}).decode()


class Listener:
    """Reads the reply queue in one thread, from the first waiter to the last (and up to one long
    poll more), and has the poller look at what was announced."""

    def __init__(self, broker: Callable[[], Broker], queue: str, poller: Poller) -> None:
        self._broker = broker
        self._queue = queue
        self._poller = poller
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def listen(self) -> None:
        """Somebody waits: see that the thread runs."""
        if self._pid != os.getpid():  # threads do not survive a fork
            self._begin()
        with self._lock:
            if self._thread is None and not self._closed.is_set():
                self._poller.announced = True
                self._thread = threading.Thread(target=self._run, name="cloudq-results-push", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Let the thread end with its poll."""
        self._closed.set()
        self._poller.announced = False

    def _run(self) -> None:
        broker: Broker | None = None  # the same to the end: a closed app is not opened again
        while self._wanted():
            try:
                broker = broker or self._broker()
                deliveries = broker.receive(self._queue, 10, broker.capabilities.max_wait, _INVISIBLE)
                self._handle(deliveries)
                if deliveries:
                    broker.ack(deliveries)
            except Exception as error:  # noqa: BLE001  results are found without announcements as well
                if self._closed.is_set():
                    return
                if self._poller.announced:
                    logger.warning(
                        "reading the reply queue %s: %s; results are polled for", self._queue, error
                    )
                self._poller.announced = False
                self._closed.wait(_AWAY)
            else:
                self._poller.announced = not self._closed.is_set()

    def _wanted(self) -> bool:
        with self._lock:
            if self._closed.is_set() or not self._poller.waiting:
                self._thread = None
                return False
            return True

    def _handle(self, deliveries: list[Delivery]) -> None:
        for each in deliveries:
            task_id = _announced(each.body)
            if task_id is None:
                logger.warning("the reply queue %s holds something else than announcements", self._queue)
            else:
                self._poller.look_now(task_id)


def _announced(body: str) -> str | None:
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    task_id = document.get("id") if isinstance(document, dict) else None
    return task_id if isinstance(task_id, str) else None
