"""The records of many results, as they arrive.

Reads are batched, what has ended is not read again, and any number of ids is one wait of the
shared poller.
"""

from __future__ import annotations

import builtins
import queue
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from cloudq import unsent
from cloudq.errors import CorruptRecord, ServiceUnavailable, TimeoutError
from cloudq.results.handle import AsyncResult, Results, call_on_loop, refuse_inside_poller

if TYPE_CHECKING:  # loaded by the app when it opens its store
    from cloudq.results.poller import Callback, Ticket
    from cloudq.results.record import Record

_Arrival: TypeAlias = "tuple[AsyncResult[Any], Record | None, Exception | None]"


def look(leaves: Sequence[AsyncResult[Any]]) -> dict[str, Record | CorruptRecord]:
    """Read those that have not ended, once; final records are kept by the results."""
    by_source: dict[int, tuple[Results, set[str]]] = {}
    for leaf in leaves:
        if leaf._record is None:
            by_source.setdefault(id(leaf._results), (leaf._results, set()))[1].add(leaf.id)
    found: dict[str, Record | CorruptRecord] = {}
    for source, wanted in by_source.values():
        found.update(source.need_store().read_each(wanted))
    for leaf in leaves:
        record = found.get(leaf.id)
        if leaf._record is None and record is not None and not isinstance(record, CorruptRecord):
            leaf._record = record if record.final else None
    return found


def _begin(leaves: Sequence[AsyncResult[Any]]) -> tuple[list[_Arrival], list[AsyncResult[Any]]]:
    """What can be told at once, and whom to wait for."""
    try:
        found = look(leaves)
    except ServiceUnavailable:
        found = {}  # it may come back while we wait
    told: list[_Arrival] = []
    missing = []
    for leaf in leaves:
        record = found.get(leaf.id)
        if leaf._record is not None:
            told.append((leaf, leaf._record, None))
        elif isinstance(record, CorruptRecord):
            told.append((leaf, None, record))
        else:
            missing.append(leaf)
    # in the order in which they ended, as far as it is known
    told.sort(key=lambda each: (each[1].done_at or 0.0) if each[1] is not None else 0.0)
    return told, missing


def arrivals(
    leaves: list[AsyncResult[Any]], timeout: float | None
) -> Generator[tuple[AsyncResult[Any], Record], None, None]:
    """Each result with its final record, as they end. ``timeout`` is in seconds, for the whole.

    Raises TimeoutError, CorruptRecord, and errors of the store that make waiting pointless.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    told, missing = _begin(leaves)
    for arrival in told:
        yield _kept(arrival)
    if not missing:
        return
    unsent.refuse_waiting(each.id for each in missing)
    arrived: queue.SimpleQueue[_Arrival] = queue.SimpleQueue()
    watch = _Watch(missing, arrived.put, blocking=True)
    try:
        for done in range(len(missing)):
            rest = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                arrival = arrived.get(timeout=rest)
            except queue.Empty:
                raise _late(missing, len(missing) - done, len(leaves), timeout) from None
            yield _kept(arrival)
    finally:
        watch.end()


async def aarrivals(
    leaves: list[AsyncResult[Any]], timeout: float | None
) -> AsyncGenerator[tuple[AsyncResult[Any], Record], None]:
    """Asyncio twin of ``arrivals``."""
    import asyncio

    from cloudq import aio

    deadline = None if timeout is None else time.monotonic() + timeout
    told, missing = await aio.to_thread(_begin, leaves)
    for arrival in told:
        yield _kept(arrival)
    if not missing:
        return
    unsent.refuse_waiting(each.id for each in missing)
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[_Arrival] = asyncio.Queue()
    watch = _Watch(missing, lambda each: call_on_loop(loop, arrived.put_nowait, each))
    try:
        for done in range(len(missing)):
            rest = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                waiting = arrived.empty()
                arrival = await asyncio.wait_for(arrived.get(), rest) if waiting else arrived.get_nowait()
            except builtins.TimeoutError:
                raise _late(missing, len(missing) - done, len(leaves), timeout) from None
            yield _kept(arrival)
    finally:
        watch.end()


class _Watch:
    """One wait for many results, at the poller of each app they belong to."""

    def __init__(
        self,
        leaves: Sequence[AsyncResult[Any]],
        put: Callable[[_Arrival], Any],
        *,
        blocking: bool = False,
    ) -> None:
        by_poller: dict[int, tuple[Any, dict[str, list[AsyncResult[Any]]]]] = {}
        for leaf in leaves:
            poller = leaf._results.poller
            same = by_poller.setdefault(id(poller), (poller, {}))[1]
            same.setdefault(leaf.id, []).append(leaf)
        self._tickets: list[tuple[Any, list[Ticket]]] = []
        for poller, wanted in by_poller.values():
            if blocking:
                refuse_inside_poller(poller)
            callbacks = {task_id: _teller(same, put) for task_id, same in wanted.items()}
            self._tickets.append((poller, poller.watch_all(callbacks)))

    def end(self) -> None:
        for poller, tickets in self._tickets:
            poller.cancel(*tickets)


def _teller(leaves: list[AsyncResult[Any]], put: Callable[[_Arrival], Any]) -> Callback:
    def arrived(record: Record | None, error: Exception | None) -> None:
        for leaf in leaves:
            put((leaf, record, error))

    return arrived


def _kept(arrival: _Arrival) -> tuple[AsyncResult[Any], Record]:
    leaf, record, error = arrival
    if error is not None:
        raise error
    assert record is not None
    leaf._record = record
    return leaf, record


def _late(missing: Sequence[AsyncResult[Any]], left: int, total: int, timeout: float | None) -> TimeoutError:
    first = next((each.id for each in missing if each._record is None), missing[0].id)
    return TimeoutError(
        f"{left} of {total} tasks have not ended within {timeout:g} seconds; one of them: {first}"
    )
