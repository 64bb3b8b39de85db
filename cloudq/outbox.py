"""Calls that are collected and sent together: ``with app.batch():``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from cloudq import unsent
from cloudq.errors import OperationalError, SendError

if TYPE_CHECKING:  # declaring tasks stays light
    from cloudq.outgoing import Outgoing
    from cloudq.producer import Producer
    from cloudq.registry import Registry

#: Calls of one queue that are sent as soon as they are together: what one SendMessageBatch takes.
FULL: Final = 10


def outbox_of(owner: object) -> Outbox | None:
    """The innermost open block of this app, in this thread or asyncio task; None: calls go out at once."""
    for each in reversed(unsent.blocks.get()):
        if isinstance(each, Outbox) and each.takes(owner):
            return each
    return None


class Outbox:
    """The calls made inside one block, also by tasks of asyncio that were started in it, until it ends.

    ``publish(calls)`` sends, and gives the failures by position. Calls of a queue go out ten at a time; the
    rest at the end of the block. Entries that the queue refuses are told at the end, together, as SendError; when
    a whole call fails, the block's own call that caused it raises. After an exception inside the block
    nothing more is sent: what had gone out by then stays sent.
    """

    def __init__(self, owner: object, publish: Callable[[Sequence[Outgoing]], dict[int, Exception]]) -> None:
        self._owner = owner
        self._publish = publish
        self._lock = threading.Lock()
        self._waiting: dict[str, list[tuple[int, Outgoing]]] = {}
        self._ids: list[str] = []
        self._failures: dict[int, Exception] = {}
        self._state = "new"
        #: The thread and asyncio task that run the block; others wait for its calls with good reason.
        self.place: tuple[int, Any] = (0, None)

    def __len__(self) -> int:
        """Calls that wait to be sent."""
        return sum(len(each) for each in self._waiting.values())

    @property
    def ids(self) -> list[str]:
        """The ids of all calls made so far, in order."""
        return list(self._ids)

    def holds(self) -> list[str]:
        """The ids of the calls that wait to be sent."""
        with self._lock:
            return [call.envelope.id for waiting in self._waiting.values() for _, call in waiting]

    def takes(self, owner: object) -> bool:
        """Does it collect the calls of this app, still?"""
        return self._owner is owner and self._state == "open"

    def add(self, call: Outgoing) -> bool:
        """Take a call, written already; False when the block has just ended: it is to be sent as usual.

        Raises SendError when its queue's ten could not be sent at all.
        """
        full: list[tuple[int, Outgoing]] = []
        with self._lock:
            if self._state != "open":
                return False
            position = len(self._ids)
            self._ids.append(call.envelope.id)
            waiting = self._waiting.setdefault(call.queue, [])
            waiting.append((position, call))
            if len(waiting) >= FULL:
                full = self._waiting.pop(call.queue)
        if full and self._send(full):
            raise self._error()
        return True

    def _send(self, calls: list[tuple[int, Outgoing]]) -> bool:
        """Send; did all of them fail?"""
        try:
            failed = self._publish([call for _, call in calls])
        except OperationalError as error:
            failed = dict.fromkeys(range(len(calls)), error)
        with self._lock:
            self._failures.update({calls[n][0]: error for n, error in failed.items()})
        return len(failed) == len(calls)

    def _error(self) -> SendError:
        unsent = {position for waiting in self._waiting.values() for position, _ in waiting}
        ids = dict(enumerate(self._ids))
        sent = {n: each for n, each in ids.items() if n not in self._failures and n not in unsent}
        return SendError(self._failures, sent, {n: ids[n] for n in sorted(self._failures)})

    # --- the block --------------------------------------------------------------------------------

    def __enter__(self) -> Outbox:
        if self._state != "new":
            raise RuntimeError("a batch is used once: write `with app.batch():` anew")
        self._state = "open"
        self.place = unsent.here()
        unsent.blocks.set((*unsent.blocks.get(), self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        if kind is None:
            self.finish()

    async def __aenter__(self) -> Outbox:
        return self.__enter__()

    async def __aexit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        self._close()
        if kind is None:
            from cloudq import aio

            await aio.to_thread(self.finish)

    def _close(self) -> None:
        with self._lock:
            self._state = "closed"
            self.place = (0, None)
        unsent.blocks.set(tuple(each for each in unsent.blocks.get() if each is not self))

    def finish(self) -> None:
        """Send what is left. Raises SendError naming all calls of the block that were not sent."""
        with self._lock:
            left, self._waiting = list(self._waiting.values()), {}
        for calls in left:
            self._send(calls)
        if self._failures:
            raise self._error()


class Collecting:
    """The part of an app that collects calls."""

    if TYPE_CHECKING:
        tasks: Registry

        @property
        def producer(self) -> Producer: ...
        def _publish(self, calls: list[Outgoing]) -> tuple[list[Outgoing], dict[int, Exception]]: ...

    def batch(self) -> Outbox:
        """Collect the calls made in a block and send them ten at a time: ``with app.batch():``; also ``async with``.

        Their results are there at once. See docs/quickstart.md for what happens when something fails.
        """
        return Outbox(self, lambda calls: self._publish(list(calls))[1])

    def _collected(self, call: Outgoing) -> bool:
        """Is it to be sent with others, by a block that is open?"""
        outbox = outbox_of(self)
        if outbox is None or call.at is not None:
            return False
        task = self.tasks.get(call.envelope.task)
        if task is not None and task.unique is not None:  # only its lock says which call stands
            return False
        return outbox.add(self.producer.written(call))
