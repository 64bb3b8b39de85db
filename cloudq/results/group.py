"""ResultSet and GroupResult: the results of many tasks, asked and waited for together.

Reads are batched (a hundred ids a call), what has ended is not read again, and a set of any size
is one wait of the process's shared poller.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing, closing
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypedDict, TypeVar

from cloudq import states
from cloudq.errors import CorruptRecord
from cloudq.results.arrivals import aarrivals, arrivals, look
from cloudq.results.handle import (
    AsyncResult,
    EagerResult,
    Results,
    error_of,
    refuse_inside_task,
)
from cloudq.results.lazy import LazyResults

if TYPE_CHECKING:  # loaded by the app when it opens its store
    from cloudq.results.record import Record

R = TypeVar("R")
Node: TypeAlias = "AsyncResult[Any] | GroupResult[Any]"


class Meta(TypedDict):
    """What ``iter_native`` says of one finished task; keys as in Celery."""

    task_id: str
    status: str
    result: Any
    traceback: str | None
    children: list[Any]
    date_done: float | None


class ResultSet(Generic[R]):
    """Many results. Iterating gives them in their order; ``iter_native`` as they finish.

    ``results`` may hold groups: their values are then lists. An empty set needs ``source``, the
    app (``app.ResultSet([])``).
    """

    def __init__(self, results: Iterable[Node] = (), source: Results | None = None) -> None:
        #: In order. A large group's are made when they are looked at (``LazyResults``).
        self.results: Sequence[Node] = []
        self._source = source
        self.update(results)

    # --- membership ---------------------------------------------------------------------------

    def add(self, result: Node) -> None:
        """Append a result unless it is in already."""
        if result not in self.results:
            self._append(result)

    def update(self, results: Iterable[Node]) -> None:
        """Append those that are not in already."""
        present = set(self.results)
        for each in results:
            if each not in present:
                present.add(each)
                self._append(each)

    def _append(self, result: Node) -> None:
        self._source = self._source or result._results
        self._listed().append(result)

    def _listed(self) -> list[Node]:
        """The results as a list that may change."""
        if not isinstance(self.results, list):
            self.results = list(self.results)
        return self.results

    def remove(self, result: Node | str) -> None:
        """Take one out, given it or its id. Raises KeyError."""
        for position, each in enumerate(self.results):
            if each is result or each.id == getattr(result, "id", result):
                del self._listed()[position]
                return
        raise KeyError(result)

    def discard(self, result: Node | str) -> None:
        """As ``remove``; no error if it is not in."""
        try:
            self.remove(result)
        except KeyError:
            pass

    def clear(self) -> None:
        """Take all out."""
        self.results = []

    def __iter__(self) -> Iterator[Node]:
        return iter(self.results)

    def __getitem__(self, index: int) -> Node:
        return self.results[index]

    def __len__(self) -> int:
        return len(self.results)

    def __eq__(self, other: object) -> bool:
        return other.results == self.results if isinstance(other, ResultSet) else NotImplemented

    def __hash__(self) -> int:
        raise TypeError("a ResultSet can change and is not hashable")

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: [{', '.join(each.id for each in self.results)}]>"

    # --- states -------------------------------------------------------------------------------

    def ready(self) -> bool:
        """Have all ended, one way or the other?"""
        return all(record.final for record in self._records())

    def waiting(self) -> bool:
        """Is any of them not ready?"""
        return not self.ready()

    def successful(self) -> bool:
        """Did all end in SUCCESS?"""
        return all(record.state == states.SUCCESS for record in self._records())

    def failed(self) -> bool:
        """Did any of them end in FAILURE?"""
        return any(record.state == states.FAILURE for record in self._records())

    def completed_count(self) -> int:
        """How many have succeeded; a group counts as one."""
        records = {id(leaf): record for leaf, record in zip(self._leaves(), self._records(), strict=True)}
        return sum(
            all(records[id(leaf)].state == states.SUCCESS for leaf in _leaves_of(each))
            for each in self._listed()
        )

    def maybe_throw(self, callback: Callable[[str, Any], None] | None = None, propagate: bool = True) -> None:
        """Raise the exception of the first that has failed, in their order."""
        for leaf, record in zip(self._leaves(), self._records(), strict=True):
            _conclude(leaf, record, propagate, callback)

    maybe_reraise = maybe_throw

    def forget(self) -> None:
        """Delete the records of all."""
        for leaf in self._leaves():
            leaf.forget()

    async def aforget(self) -> None:
        """Asyncio twin of ``forget``."""
        from cloudq import aio

        await aio.to_thread(self.forget)

    def revoke(self, terminate: bool = False, signal: str = "SIGTERM") -> None:
        """Revoke all, as ``AsyncResult.revoke``: workers are told once, whatever their number."""
        leaves = list(self._leaves())
        if leaves:
            leaves[0]._results.control.revoke(
                [each.id for each in leaves], terminate=terminate, signal=signal
            )

    async def arevoke(self, terminate: bool = False, signal: str = "SIGTERM") -> None:
        """Asyncio twin of ``revoke``."""
        from cloudq import aio

        await aio.to_thread(self.revoke, terminate, signal)

    # --- waiting ------------------------------------------------------------------------------

    def join(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        *,
        callback: Callable[[str, Any], None] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> list[R]:
        """Wait for all and return their values, in their order.

        ``timeout`` is in seconds, for the whole. With ``propagate`` the first failure *in their
        order* is raised, once all before it have ended; otherwise exceptions stand among the
        values. ``callback(task_id, value)`` is called for each, in their order.
        """
        if disable_sync_subtasks:
            self._refuse_inside_task()
        waiting = iter(leaves := self._leaves())
        head = next(waiting, None)
        with closing(arrivals(leaves, timeout)) as arriving:
            for _ in arriving:
                while head is not None and head._record is not None:
                    _conclude(head, head._record, propagate, callback)
                    head = next(waiting, None)
        return self._values()

    def join_native(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        *,
        callback: Callable[[str, Any], None] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> list[R]:
        """As ``join``, but callbacks and failures come as the tasks end: the first failure in time
        is raised at once."""
        if disable_sync_subtasks:
            self._refuse_inside_task()
        with closing(arrivals(self._leaves(), timeout)) as arriving:
            for leaf, record in arriving:
                _conclude(leaf, record, propagate, callback)
        return self._values()

    get = join_native

    async def ajoin(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        *,
        callback: Callable[[str, Any], None] | None = None,
    ) -> list[R]:
        """Asyncio twin of ``join``; may be awaited inside ``async def`` tasks."""
        waiting = iter(leaves := self._leaves())
        head = next(waiting, None)
        async with aclosing(aarrivals(leaves, timeout)) as arriving:
            async for _ in arriving:
                while head is not None and head._record is not None:
                    _conclude(head, head._record, propagate, callback)
                    head = next(waiting, None)
        return self._values()

    async def ajoin_native(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        *,
        callback: Callable[[str, Any], None] | None = None,
    ) -> list[R]:
        """Asyncio twin of ``join_native``."""
        async with aclosing(aarrivals(self._leaves(), timeout)) as arriving:
            async for leaf, record in arriving:
                _conclude(leaf, record, propagate, callback)
        return self._values()

    aget = ajoin_native

    def iter_native(self, timeout: float | None = None) -> Iterator[tuple[str, Meta]]:
        """(id, meta) of each as it finishes: ``meta["status"]``, ``meta["result"]``.

        ``timeout`` is in seconds, for the whole; raises ``TimeoutError``. Failures are not raised.
        """
        for leaf, record in arrivals(self._leaves(), timeout):
            yield leaf.id, _meta(record)

    async def aiter_native(self, timeout: float | None = None) -> AsyncIterator[tuple[str, Meta]]:
        """Asyncio twin of ``iter_native``."""
        async with aclosing(aarrivals(self._leaves(), timeout)) as arriving:
            async for leaf, record in arriving:
                yield leaf.id, _meta(record)

    def _refuse_inside_task(self) -> None:
        if not all(isinstance(leaf, EagerResult) for leaf in self._leaves()):  # those have ended
            refuse_inside_task()

    # --- parts --------------------------------------------------------------------------------

    def _leaves(self) -> list[AsyncResult[Any]]:
        return [leaf for each in self._listed() for leaf in _leaves_of(each)]

    def _values(self) -> list[R]:
        return [_value(each) for each in self._listed()]

    def _records(self) -> list[Record]:
        """All records as they are now, in order; PENDING for those of which nothing is known."""
        from cloudq.results.record import Record

        leaves = self._leaves()
        found = look(leaves)
        for error in found.values():
            if isinstance(error, CorruptRecord):
                raise error
        known = ((leaf, leaf._record or found.get(leaf.id)) for leaf in leaves)
        return [r if isinstance(r, Record) else Record(leaf.id, states.PENDING) for leaf, r in known]


class GroupResult(ResultSet[R]):
    """The results of a group. It has an id and can be saved under it."""

    def __init__(
        self,
        id: str | None = None,
        results: Iterable[Node] = (),
        parent: Node | None = None,
        source: Results | None = None,
    ) -> None:
        super().__init__((), source)
        if id is None:
            from cloudq import ids

            id = ids.new_id()
        self.id: str = id
        self.parent = parent
        if isinstance(results, LazyResults):
            self.results = results
        else:
            for each in results:  # two members may be one task
                self._append(each)

    @property
    def children(self) -> Sequence[Node]:
        """The members."""
        return self.results

    def save(self) -> GroupResult[R]:
        """Remember the members in the results store, as long as results are kept (``restore``)."""
        from cloudq.results.membership import Membership

        members = [each.as_tuple() for each in self.results]
        parent = self.parent.as_tuple() if self.parent is not None else None
        self._need_source().need_store().save_group(Membership(self.id, members, parent))
        return self

    @classmethod
    def restore(cls, id: str, app: Results) -> GroupResult[Any] | None:
        """A saved group, or None. Raises CorruptRecord."""
        found = app.need_store().read_group(id)
        if found is None:
            return None
        parent = None if found.parent is None else result_from_tuple(found.parent, app)
        return cls(id, [result_from_tuple(each, app) for each in found.members], parent, app)

    def delete(self) -> None:
        """Delete what ``save`` wrote. The members' records stay."""
        self._need_source().need_store().forget_group(self.id)

    def as_tuple(self) -> tuple[Any, Any]:
        """``((id, parent), [members])``, each in the same form."""
        parent = self.parent.as_tuple() if self.parent is not None else None
        return (self.id, parent), [each.as_tuple() for each in self.results]

    def as_list(self) -> list[str]:
        """This id, then those of its parents."""
        return [self.id, *(self.parent.as_list() if self.parent is not None else ())]

    def graph(self) -> Any:
        """The workflow that ends in this group, or that it is part of; see ``AsyncResult.graph``."""
        return self._need_source().tree(self.id)

    @property
    def _results(self) -> Results:
        return self._need_source()

    def _need_source(self) -> Results:
        if self._source is None:
            raise ValueError("this group is empty and belongs to no app: make it with app.GroupResult(...)")
        return self._source

    def __eq__(self, other: object) -> bool:
        if isinstance(other, GroupResult):
            return other.id == self.id and other.results == self.results and other.parent == self.parent
        return other == self.id if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id} [{', '.join(each.id for each in self.results)}]>"


class Groups:
    """``app.GroupResult``: call it as the class, or ``app.GroupResult.restore(id)``."""

    def __init__(self, source: Results) -> None:
        self._source = source

    def __call__(
        self, id: str | None = None, results: Iterable[Node] = (), parent: Node | None = None
    ) -> GroupResult[Any]:
        return GroupResult(id, results, parent, self._source)

    def restore(self, id: str) -> GroupResult[Any] | None:
        """A saved group, or None."""
        return GroupResult.restore(id, self._source)


def result_from_tuple(plain: Any, app: Results) -> Node:
    """The result that ``as_tuple`` was called on. Raises ValueError for anything else."""
    try:
        (task_id, parent), members = plain
        if not isinstance(task_id, str) or not isinstance(members, list | tuple | None):
            raise TypeError
    except (TypeError, ValueError):
        raise ValueError(f"not what as_tuple() gives: {plain!r}") from None
    above = None if parent is None else result_from_tuple(parent, app)
    if members is not None:
        return GroupResult(task_id, [result_from_tuple(each, app) for each in members], above, app)
    result = app.handle(task_id)
    result.parent = above
    return result


def _leaves_of(node: Node) -> list[AsyncResult[Any]]:
    return node._leaves() if isinstance(node, GroupResult) else [node]


def _value(node: Node) -> Any:
    if isinstance(node, GroupResult):
        return node._values()
    assert node._record is not None
    return node._record.result


def _conclude(
    leaf: AsyncResult[Any], record: Record, propagate: bool, callback: Callable[[str, Any], None] | None
) -> None:
    if record.failed and propagate:
        raise error_of(record)
    if callback is not None and record.final:
        callback(leaf.id, record.result)


def _meta(record: Record) -> Meta:
    return {
        "task_id": record.id,
        "status": record.state,
        "result": record.result,
        "traceback": record.traceback,
        "children": list(record.children),
        "date_done": record.done_at,
    }
