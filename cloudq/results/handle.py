"""AsyncResult: a task's id, and what one can ask of it."""

from __future__ import annotations

import builtins
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from cloudq import context, states, unsent
from cloudq.errors import CloudQError, ServiceUnavailable, TaskError, TimeoutError

if TYPE_CHECKING:  # loaded by the app when it opens its store; asyncio and aio are imported late as well
    import asyncio

    from cloudq.results.poller import Poller
    from cloudq.results.record import Record
    from cloudq.results.store import ResultStore

    _Answer = tuple[Record | None, Exception | None]

R = TypeVar("R")


class Revoker(Protocol):
    """What ``revoke`` needs: ``app.control``."""

    def revoke(
        self, task_id: str | Iterable[str], *, terminate: bool = False, signal: str = "SIGTERM"
    ) -> dict[str, str]: ...


class Results(Protocol):
    """What a handle needs of the app: its records. The app's own object; tests may stand in."""

    def read(self, task_id: str) -> Record | None: ...
    def forget(self, task_id: str) -> None: ...
    @property
    def poller(self) -> Poller: ...
    @property
    def control(self) -> Revoker: ...
    def need_store(self) -> ResultStore: ...
    def handle(self, task_id: str) -> AsyncResult[Any]: ...
    def tree(self, task_id: str) -> Any:
        """A workflow with its states."""
        ...

    def unfinished(self, task_id: str) -> list[str]:
        """The ids of a workflow's tasks that have not ended."""
        ...

    def node(self, plain: Any) -> Any:
        """The result that ``as_tuple`` was called on: one task's, or a group's."""
        ...


class AsyncResult(Generic[R]):
    """The result of one task, now or later. Equal to any other with the same id.

    Reading a property of an unfinished task asks the store once; a final record is kept.
    PENDING also means "nothing is known of this id".
    """

    def __init__(self, id: str, results: Results, parent: Any = None) -> None:
        self.id = id
        self.parent = parent
        self._results = results
        self._record: Record | None = None

    # --- the record -------------------------------------------------------------------------

    def _read(self) -> Record:
        if self._record is not None:
            return self._record
        record = self._results.read(self.id)
        if record is None:
            from cloudq.results.record import Record

            return Record(self.id, states.PENDING)
        if record.final and not record.asked:
            self._record = record
        return record

    @property
    def task_id(self) -> str:
        return self.id

    @property
    def state(self) -> str:
        """PENDING, STARTED, RETRY, SUCCESS, FAILURE, REVOKED, REJECTED, IGNORED or a custom one."""
        return self._read().state

    status = state

    @property
    def result(self) -> Any:
        """The return value, or the exception *instance* of a failed task, or custom meta."""
        return self._read().result

    info = result

    @property
    def traceback(self) -> str | None:
        """The failed task's traceback as text."""
        return self._read().traceback

    @property
    def date_done(self) -> datetime | None:
        """When the task ended (UTC)."""
        done_at = self._read().done_at
        return None if done_at is None else datetime.fromtimestamp(done_at, UTC)

    @property
    def name(self) -> str | None:
        """The task's name (``result_extended``)."""
        return self._read().name

    @property
    def args(self) -> Any:
        """The task's positional arguments (``result_extended``)."""
        return self._read().args

    @property
    def kwargs(self) -> Any:
        """The task's keyword arguments (``result_extended``)."""
        return self._read().kwargs

    @property
    def worker(self) -> str | None:
        """The worker that ran it (``result_extended``)."""
        return self._read().worker

    @property
    def queue(self) -> str | None:
        """The queue it came through (``result_extended``)."""
        return self._read().queue

    @property
    def retries(self) -> int:
        """How many times it was retried."""
        return self._read().retries

    @property
    def children(self) -> list[Any]:
        """Results of the tasks (and groups) that this one led to; known once it has finished."""
        results = self._results
        return [
            results.handle(each) if isinstance(each, str) else results.node(each)
            for each in self._read().children
        ]

    def ready(self) -> bool:
        """Has it ended, one way or the other?"""
        return self._read().final

    def successful(self) -> bool:
        """Did it end in SUCCESS?"""
        return self.state == states.SUCCESS

    def failed(self) -> bool:
        """Did it end in FAILURE?"""
        return self.state == states.FAILURE

    def exists(self) -> bool:
        """Is anything recorded of this id? PENDING alone does not tell. Asks the store."""
        return self._record is not None or self._results.read(self.id) is not None

    def forget(self) -> None:
        """Delete the record from the store."""
        self._record = None
        self._results.forget(self.id)

    async def aforget(self) -> None:
        """Asyncio twin of ``forget``."""
        from cloudq import aio

        await aio.to_thread(self.forget)

    def revoke(self, terminate: bool = False, signal: str = "SIGTERM", tree: bool = False) -> None:
        """Have it not run; ``terminate``: stop it if it runs. See ``app.control.revoke``.

        With ``tree`` the whole workflow that it is the end of, or part of: what has not begun never will.
        """
        wanted = self._results.unfinished(self.id) if tree else self.id
        self._results.control.revoke(wanted, terminate=terminate, signal=signal)

    async def arevoke(self, terminate: bool = False, signal: str = "SIGTERM", tree: bool = False) -> None:
        """Asyncio twin of ``revoke``."""
        from cloudq import aio

        await aio.to_thread(self.revoke, terminate, signal, tree)

    def graph(self) -> Any:
        """The workflow that this is the end of, or part of, with the states of its tasks now.

        ``str()`` draws it as text, ``.dot()`` for Graphviz, ``.mermaid()`` for Markdown.
        """
        return self._results.tree(self.id)

    # --- waiting ----------------------------------------------------------------------------

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        *,
        callback: Callable[[str, Any], None] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> R:
        """Wait for the task to end and return its value.

        ``timeout`` is in seconds, None waits for ever. A failed task raises its exception here
        (``propagate=False`` returns it). ``callback(task_id, value)`` is called before returning.
        Raises ``TimeoutError``; RuntimeError inside a task, where waiting for another task can
        block every place of the worker (``disable_sync_subtasks=False`` allows it), and inside
        the ``with app.batch():`` that still holds the call.
        """
        if disable_sync_subtasks:
            refuse_inside_task()
        record = self._wait(timeout)
        return self._conclude(record, propagate, callback)

    async def aget(self, timeout: float | None = None, propagate: bool = True) -> R:
        """Asyncio twin of ``get``; may be awaited inside ``async def`` tasks."""
        record = await self._await(timeout)
        return self._conclude(record, propagate, None)

    wait = get

    def maybe_throw(self, propagate: bool = True) -> Any:
        """Raise the task's exception if it has failed; otherwise return its result, if any."""
        record = self._read()
        if record.failed and propagate:
            raise error_of(record)
        return record.result

    maybe_reraise = maybe_throw

    def then(
        self,
        callback: Callable[[AsyncResult[R]], Any],
        on_error: Callable[[Exception], Any] | None = None,
    ) -> None:
        """Call ``callback(result)`` once the task has ended, however it did; at once if it has.

        It runs in the thread that waits for all results of this process, so it must be quick and
        wait for nothing. ``on_error`` gets an error of the store that makes waiting pointless.
        """
        if self._record is not None:
            callback(self)
            return

        def arrived(found: Record | None, error: Exception | None) -> None:
            if found is not None:
                self._record = found
                callback(self)
            elif error is not None and on_error is not None:
                on_error(error)
            else:
                import logging

                logging.getLogger("cloudq.results").error("waiting for task %s has ended: %s", self.id, error)

        self._results.poller.watch(self.id, arrived)

    def _wait(self, timeout: float | None) -> Record:
        try:
            record = self._read()
        except ServiceUnavailable:
            pass  # it may come back while we wait
        else:
            if record.final:
                return record
        unsent.refuse_waiting((self.id,))
        poller = self._results.poller
        refuse_inside_poller(poller)
        done = threading.Event()
        answer: list[_Answer] = []

        def arrived(found: Record | None, error: Exception | None) -> None:
            answer.append((found, error))
            done.set()

        ticket = poller.watch(self.id, arrived)
        try:
            done.wait(timeout)
        finally:
            poller.cancel(ticket)
        if not answer:
            raise self._late(timeout)
        return self._keep(answer[0])

    async def _await(self, timeout: float | None) -> Record:
        import asyncio

        if self._record is not None:
            return self._record
        if timeout is not None and timeout <= 0:  # no time for the poller
            from cloudq import aio

            record = await aio.to_thread(self._read)
            if record.final:
                return record
            raise self._late(timeout)
        unsent.refuse_waiting((self.id,))
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_Answer] = loop.create_future()

        def settle(found: Record | None, error: Exception | None) -> None:
            if not future.done():
                future.set_result((found, error))

        poller = self._results.poller
        ticket = poller.watch(self.id, lambda *answer: call_on_loop(loop, settle, *answer))
        try:
            return self._keep(await asyncio.wait_for(future, timeout))
        except builtins.TimeoutError:
            raise self._late(timeout) from None
        finally:
            poller.cancel(ticket)

    def _keep(self, answer: _Answer) -> Record:
        record, error = answer
        if error is not None:
            raise error
        assert record is not None
        self._record = None if record.asked else record
        return record

    def _late(self, timeout: float | None) -> TimeoutError:
        return TimeoutError(f"task {self.id} has not ended within {timeout:g} seconds")

    def _conclude(self, record: Record, propagate: bool, callback: Callable[[str, Any], None] | None) -> R:
        if record.failed and propagate:
            raise error_of(record)
        if callback is not None:
            callback(self.id, record.result)
        value: R = record.result
        return value

    # --- being a value ----------------------------------------------------------------------

    def iterdeps(
        self, intermediate: bool = False
    ) -> Iterator[tuple[AsyncResult[Any] | None, AsyncResult[Any]]]:
        """(parent, result) for this task and everything it led to, breadth first."""
        pending: list[tuple[AsyncResult[Any] | None, AsyncResult[Any]]] = [(None, self)]
        while pending:
            parent, node = pending.pop(0)
            yield parent, node
            if node.ready():
                pending.extend((node, child) for child in node.children)
            elif not intermediate:
                raise CloudQError(f"task {node.id} has not ended: its children are not known yet")

    def get_leaf(self) -> Any:
        """The value of the last task that this one led to; waits for each on the way."""
        value: Any = None
        for _, result in self.iterdeps(intermediate=True):
            value = result.get()
        return value

    def as_tuple(self) -> tuple[Any, Any]:
        """``((id, parent), None)``, the parent in the same form: for storing (``result_from_tuple``)."""
        return (self.id, self.parent.as_tuple() if self.parent is not None else None), None

    def as_list(self) -> list[str]:
        """This id, then those of its parents."""
        return [self.id, *(self.parent.as_list() if self.parent is not None else ())]

    def collect(self, intermediate: bool = False, **kwargs: Any) -> Iterator[tuple[AsyncResult[Any], Any]]:
        """(result, value) for this task and everything it led to; waits for each (see ``get``)."""
        for _, result in self.iterdeps(intermediate=intermediate):
            yield result, result.get(**kwargs)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, AsyncResult):
            return other.id == self.id
        return other == self.id if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id}>"


class EagerResult(AsyncResult[R]):
    """The result of a task that ran in this process, with ``apply()`` or ``task_always_eager``."""

    def __init__(self, record: Record, results: Results) -> None:
        super().__init__(record.id, results)
        self._record = record

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        *,
        callback: Callable[[str, Any], None] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> R:
        """The value, at once; waiting inside a task is no danger here."""
        assert self._record is not None
        return self._conclude(self._record, propagate, callback)

    wait = get

    def forget(self) -> None:
        """Nothing is stored: the record stays with this object."""

    def revoke(self, terminate: bool = False, signal: str = "SIGTERM", tree: bool = False) -> None:
        """It has ended: nothing is left to revoke."""


def refuse_inside_task() -> None:
    """Raise RuntimeError when a task runs in this context."""
    if context.current() is not None:
        raise RuntimeError(
            "get() inside a task waits for another task while it holds a place of the worker, and can block it "
            "for good: use a chain or a chord, `await r.aget()` in an async task, or get(disable_sync_subtasks=False)"
        )


def refuse_inside_poller(poller: Poller) -> None:
    """Raise RuntimeError in a callback of ``then``, where waiting would wait for itself."""
    if poller.inside():
        raise RuntimeError(
            "a callback of then() runs in the thread that waits for results, and cannot wait for one itself"
        )


def call_on_loop(loop: asyncio.AbstractEventLoop, call: Callable[..., Any], *arguments: Any) -> None:
    """From another thread; a loop that has been closed has nobody left to tell."""
    try:
        loop.call_soon_threadsafe(call, *arguments)
    except RuntimeError:
        if not loop.is_closed():
            raise


def error_of(record: Record) -> BaseException:
    """What a failed task's record raises."""
    if isinstance(record.result, BaseException):
        return record.result
    return TaskError(f"task {record.id} ended in {record.state}: {record.result!r}")
