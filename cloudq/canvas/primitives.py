"""chain, group, chord, chunks, map and starmap: signatures made of signatures.

They only hold their parts; what they mean is worked out by ``cloudq.canvas.plan`` when they are sent.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final

from cloudq import ids
from cloudq.canvas import plan
from cloudq.canvas.sender import Sender
from cloudq.canvas.signature import Signature, signature
from cloudq.errors import ImproperlyConfigured


class Lazy:
    """Signatures that are made while they are sent; they can be gone through once."""

    def __init__(self, source: Iterable[Any]) -> None:
        self._source: Iterator[Any] = iter(source)
        self._used = False

    def peek(self) -> Any:
        """The first, or None; it stays in."""
        for first in self._source:
            self._source = itertools.chain([first], self._source)
            return first
        return None

    def __iter__(self) -> Iterator[Any]:
        if self._used:
            raise ImproperlyConfigured(
                "the generator of this group was used up by an earlier call: give a list to send it again"
            )
        self._used = True
        return self._source


class Primitive(Signature):
    """What the signatures that are made of others have in common."""

    def __init__(self, parts: Mapping[str, Any], app: Sender | None, options: Mapping[str, Any]) -> None:
        super().__init__(f"cloudq.{self.kind}", (), parts, options, sender=app)
        self["subtask_type"] = self.kind

    @property
    def sender(self) -> Sender | None:
        """The app of the first of its parts that has one."""
        if self._sender is None:
            self._sender = _sender_of(self.kwargs.values())
        return self._sender

    def clone(self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """A copy; ``args`` and ``kwargs`` go to the calls that it begins with."""
        copy = super().clone(args, {}, **options)
        if kwargs and not self.immutable:
            copy["kwargs"] = {**copy["kwargs"], "given": {**copy["kwargs"].get("given", {}), **kwargs}}
        return copy

    partial = clone

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Send it, as Celery's primitives do when called."""
        return self.apply_async(args, kwargs)

    def freeze(self, task_id: str | None = None) -> Any:
        """Settle all its ids now, in place; returns the result it will have."""
        if task_id is not None or "task_id" not in self.options:
            self.options["task_id"] = task_id or ids.new_id()
        self.kwargs["seed"] = self.options["task_id"]
        _keep_members(self)
        return self._way_out().frozen_result(self)

    def apply_async(
        self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """Send it. The result is that of its last call; a GroupResult if it ends in a group."""
        return self._way_out().send_canvas(self.clone(args, kwargs, **options))

    async def aapply_async(
        self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """Asyncio twin of ``apply_async``."""
        return await self._way_out().asend_canvas(self.clone(args, kwargs, **options))

    def apply(self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Run it here and now, all of it."""
        return self._way_out().apply_canvas(self.clone(args, kwargs, **options))


class chain(Primitive):  # noqa: N801  Celery's name
    """Calls that run one after the other, each with the result of the one before: ``a | b``."""

    kind: ClassVar[str] = "chain"

    def __init__(self, *tasks: Any, app: Sender | None = None, **options: Any) -> None:
        super().__init__({"tasks": list(_listed(tasks))}, app, options)

    @property
    def tasks(self) -> list[Any]:
        found: list[Any] = self.kwargs["tasks"]
        return found

    def __repr__(self) -> str:
        return " | ".join(repr(each) for each in self.tasks) or "<empty chain>"


class group(Primitive):  # noqa: N801  Celery's name
    """Calls that run side by side. Takes signatures, a list, or a generator, which is consumed as it is sent."""

    kind: ClassVar[str] = "group"

    def __init__(self, *tasks: Any, app: Sender | None = None, **options: Any) -> None:
        super().__init__({"tasks": _members(_listed(tasks))}, app, options)

    @property
    def tasks(self) -> list[Any]:
        """The members; a generator is read to its end for that, and kept."""
        found = self.kwargs["tasks"]
        if isinstance(found, Lazy):
            found = self.kwargs["tasks"] = list(found)
        return list(found) if not isinstance(found, list) else found

    def link(self, callback: Mapping[str, Any]) -> Any:
        """Link to the first member only, without its result, as in Celery: use a chord instead."""
        return self.tasks[0].link(signature(callback).clone().set(immutable=True))

    def link_error(self, errback: Mapping[str, Any]) -> Any:
        """Link to every member: each failure calls it. Returns what was linked."""
        return tuple(each.link_error(signature(errback, app=self.sender).clone()) for each in self.tasks)

    def set_immutable(self, immutable: bool) -> None:
        for each in self.tasks:
            each.set_immutable(immutable)

    def skew(self, start: float = 1.0, stop: float | None = None, step: float = 1.0) -> group:
        """Give the members countdowns: ``start``, ``start + step``, ... seconds, beginning anew at ``stop``."""
        countdown = start
        for each in self.tasks:
            each.set(countdown=countdown)
            countdown += step
            if stop is not None and countdown > stop:
                countdown = start
        return self

    def __len__(self) -> int:
        return len(self.tasks)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        if isinstance(self.kwargs["tasks"], Lazy):
            return "group(<generator>)"
        return f"group({', '.join(repr(each) for each in self.tasks)})"


class chord(Primitive):  # noqa: N801  Celery's name
    """A group, its header, and a call that runs with the list of all its results, its body."""

    kind: ClassVar[str] = "chord"

    def __init__(self, header: Any, body: Any = None, *, app: Sender | None = None, **options: Any) -> None:
        if not isinstance(header, group):
            header = group(header, app=app)
        super().__init__({"header": header, "body": body}, app, options)

    @property
    def tasks(self) -> list[Any]:
        """The header's members."""
        found: list[Any] = self.kwargs["header"].tasks
        return found

    @property
    def body(self) -> Any:
        return self.kwargs["body"]

    @body.setter
    def body(self, body: Any) -> None:
        self.kwargs["body"] = body

    def clone(self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """A copy; ``args`` and ``kwargs`` go to the header, ``kwargs["body"]`` is the body."""
        given = dict(kwargs or {})
        body = given.pop("body", None)
        copy = super().clone(args, given, **options)
        if body is not None:
            copy["kwargs"]["body"] = body
        return copy

    def __call__(self, body: Any = None, **options: Any) -> Any:
        """``chord(header)(body)`` sends it."""
        return self.apply_async((), {"body": body} if body is not None else None, **options)

    def link(self, callback: Mapping[str, Any]) -> Any:
        """Link to the body."""
        return self._append("link", callback)

    def set_immutable(self, immutable: bool) -> None:
        """The header's members; the body stays as it is."""
        self.kwargs["header"].set_immutable(immutable)

    def __repr__(self) -> str:
        return f"chord({self.kwargs['header']!r}, {self.body!r})"


class xmap(Primitive):  # noqa: N801  Celery's name
    """``task.map(items)``: one call that runs the task for each item."""

    kind: ClassVar[str] = "xmap"

    def __init__(self, task: Any, it: Iterable[Any], *, app: Sender | None = None, **options: Any) -> None:
        super().__init__({"task": _as_signature(task), "it": _sized(it)}, app, options)

    def __repr__(self) -> str:
        return f"[{self.kwargs['task'].task}(x) for x in {self.kwargs['it']!r}]"


class xstarmap(Primitive):  # noqa: N801  Celery's name
    """As ``xmap``; each item is the list of positional arguments."""

    kind: ClassVar[str] = "xstarmap"

    def __init__(self, task: Any, it: Iterable[Any], *, app: Sender | None = None, **options: Any) -> None:
        super().__init__({"task": _as_signature(task), "it": _sized(it)}, app, options)

    def __repr__(self) -> str:
        return f"[{self.kwargs['task'].task}(*x) for x in {self.kwargs['it']!r}]"


class chunks(Primitive):  # noqa: N801  Celery's name
    """``task.chunks(items, n)``: a group of calls that run the task for ``n`` items each."""

    kind: ClassVar[str] = "chunks"

    def __init__(
        self, task: Any, it: Iterable[Any], n: int, *, app: Sender | None = None, **options: Any
    ) -> None:
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ImproperlyConfigured(f"chunks: n is a number of items from 1, got {n!r}")
        super().__init__({"task": _as_signature(task), "it": _iterable(it), "n": n}, app, options)

    def group(self) -> Any:
        """The group it is."""
        task, it, n = self.kwargs["task"], self.kwargs["it"], self.kwargs["n"]
        parts = (xstarmap(task, part) for part in _parts(it, n))
        made = group(parts if isinstance(it, Lazy) else list(parts), app=self.sender)
        made["options"] = dict(self.options)
        return made

    @classmethod
    def apply_chunks(cls, task: Any, it: Iterable[Any], n: int, app: Sender | None = None) -> Any:
        """Send them."""
        return cls(task, it, n, app=app)()

    def __repr__(self) -> str:
        return f"{self.kwargs['task'].task}.chunks(..., {self.kwargs['n']})"


def joined(first: Signature, then: Mapping[str, Any]) -> Any:
    """``first | then``: a chain, or a chord where a group comes first, as in Celery."""
    second = signature(then, app=first.sender)
    parts = [*_steps(first), *_steps(second)]
    if isinstance(first, group):
        first = plan.lone(first)
        if isinstance(first, group):
            if isinstance(second, group) and plan.is_empty(second):
                return first
            return chord(first, second, app=first.sender)
        parts[0] = first
    if isinstance(first, chord) and first.body is not None:
        copy = first.clone()
        copy.body = signature(first.body) | second
        return copy
    return chain(parts, app=first.sender or second.sender)


def _steps(found: Signature) -> list[Any]:
    """A plain chain's own steps; anything else is one."""
    plain = isinstance(found, chain) and not (found.options or found.args or found.immutable)
    return list(found.tasks) if plain and isinstance(found, chain) else [found]


def rebuilt(found: Mapping[str, Any], app: Sender | None) -> Signature:
    """The primitive that a mapping stands for. Raises ImproperlyConfigured for an unknown kind."""
    kind = _KINDS.get(str(found["subtask_type"]))
    if kind is None:
        raise ImproperlyConfigured(
            f"a signature's subtask_type is one of {', '.join(_KINDS)}, got {found['subtask_type']!r}"
        )
    parts = dict(found.get("kwargs") or {})
    for name in ("body", "task"):
        if isinstance(parts.get(name), Mapping):
            parts[name] = signature(parts[name], app=app)
    if "header" in parts and not isinstance(parts["header"], group):
        header = parts["header"]
        parts["header"] = (
            signature(header, app=app) if isinstance(header, Mapping) else group(header, app=app)
        )
    if isinstance(parts.get("tasks"), list | tuple):
        parts["tasks"] = [signature(each, app=app) for each in parts["tasks"]]
    made = kind.__new__(kind)
    Primitive.__init__(made, parts, app, found.get("options") or {})
    made["args"] = tuple(found.get("args") or ())
    made["immutable"] = bool(found.get("immutable", False))
    return made


def _listed(tasks: Sequence[Any]) -> Iterable[Any]:
    """What was given as ``*tasks``: several signatures, or one iterable of them."""
    if len(tasks) == 1 and not isinstance(tasks[0], Mapping):
        only = tasks[0]
        if isinstance(only, str) or not isinstance(only, Iterable):
            raise ImproperlyConfigured(f"signatures are expected, like task.s(...), got {only!r}")
        return only
    return tasks


def _members(tasks: Iterable[Any]) -> Any:
    return list(tasks) if isinstance(tasks, Sequence) else _iterable(tasks)


def _iterable(found: Iterable[Any]) -> Any:
    """What can be gone through again as it is; anything else once."""
    if isinstance(found, list | tuple | range | Lazy):
        return found
    return list(found) if hasattr(found, "__len__") else Lazy(found)


def _sized(found: Iterable[Any]) -> list[Any]:
    if isinstance(found, str) or not isinstance(found, Iterable):
        raise ImproperlyConfigured(f"the items of map and starmap are a list, got {found!r}")
    return list(found)


def _as_signature(task: Any) -> Signature:
    if isinstance(task, Mapping | str):
        return signature(task)
    made = getattr(task, "s", None)
    if made is None:
        raise ImproperlyConfigured(f"a task or a signature is expected, got {task!r}")
    found: Signature = made()
    return found


def _keep_members(found: Any) -> None:
    """Read generators to their ends, and keep what they gave."""
    if isinstance(found, group):
        inside: Iterable[Any] = found.tasks
    elif isinstance(found, chord):
        inside = [found.kwargs["header"], found.body]
    elif isinstance(found, chain):
        inside = found.tasks
    else:
        return
    for each in inside:
        _keep_members(each)


def _parts(it: Iterable[Any], n: int) -> Iterator[list[Any]]:
    items = iter(it)
    while part := list(itertools.islice(items, n)):
        yield part


def _sender_of(parts: Iterable[Any]) -> Sender | None:
    for each in parts:
        found = each.peek() if isinstance(each, Lazy) else each
        if isinstance(found, Signature):
            sender = found.sender
        elif isinstance(found, list):
            sender = _sender_of(found)
        else:
            continue
        if sender is not None:
            return sender
    return None


_KINDS: Final[dict[str, type[Primitive]]] = {
    str(each.kind): each for each in (chain, group, chord, xmap, xstarmap, chunks)
}
