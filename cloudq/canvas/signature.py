"""A signature: a call as data, to be sent later, by somebody else, or after something else.

It is a dict (``task, args, kwargs, options, subtask_type, immutable``), as in Celery: its JSON form
is what messages carry. Chains, groups and chords are signatures too (``cloudq.canvas.primitives``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any, ClassVar, Self

from cloudq import ids
from cloudq.canvas.sender import Sender
from cloudq.errors import ImproperlyConfigured
from cloudq.results.handle import AsyncResult, EagerResult


class Signature(dict[str, Any]):
    """One task call with its options. ``s.delay()`` sends it; ``s.clone(args)`` makes a variant."""

    #: ``subtask_type`` of the subclasses in ``cloudq.canvas.primitives``, None for a plain call.
    kind: ClassVar[str | None] = None

    def __init__(
        self,
        task: str | Mapping[str, Any],
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        immutable: bool = False,
        sender: Sender | None = None,
    ) -> None:
        if isinstance(task, Mapping):
            found = dict(task)
            super().__init__(
                task=str(found["task"]),
                args=tuple(found.get("args") or ()),
                kwargs=dict(found.get("kwargs") or {}),
                options=dict(found.get("options") or {}),
                subtask_type=found.get("subtask_type"),
                immutable=bool(found.get("immutable", False)),
            )
        else:
            super().__init__(
                task=task,
                args=tuple(args),
                kwargs=dict(kwargs or {}),
                options=dict(options or {}),
                subtask_type=None,
                immutable=immutable,
            )
        self._sender = sender

    task: str = property(lambda self: self["task"])  # type: ignore[assignment]
    args: tuple[Any, ...] = property(lambda self: self["args"])  # type: ignore[assignment]
    kwargs: dict[str, Any] = property(lambda self: self["kwargs"])  # type: ignore[assignment]
    options: dict[str, Any] = property(lambda self: self["options"])  # type: ignore[assignment]
    immutable: bool = property(lambda self: self["immutable"])  # type: ignore[assignment]

    @property
    def name(self) -> str:
        return self.task

    @property
    def id(self) -> str | None:
        """The task id it will have, once ``freeze`` or ``set(task_id=...)`` has given it one."""
        found: str | None = self.options.get("task_id")
        return found

    def clone(
        self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Self:
        """A copy with ``args`` put before its own, ``kwargs`` and ``options`` laid over its own.

        An immutable signature takes no further arguments.
        """
        copy = self._copy()
        if not self.immutable:
            copy["args"] = (*args, *self.args)
            copy["kwargs"] = {**self.kwargs, **(kwargs or {})}
        copy["options"] = {**_copied(self.options), **options}
        return copy

    partial = clone

    def _copy(self) -> Self:
        copy = type(self).__new__(type(self))
        dict.__init__(copy, self)
        copy["kwargs"] = dict(self.kwargs)
        copy._sender = self._sender
        return copy

    def replace(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Self:
        """A copy with these in place of its own."""
        copy = self.clone()
        if args is not None:
            copy["args"] = tuple(args)
        if kwargs is not None:
            copy["kwargs"] = dict(kwargs)
        if options is not None:
            copy["options"] = dict(options)
        return copy

    def set_immutable(self, immutable: bool) -> None:
        """Take no arguments of what runs before it (or do, again)."""
        self["immutable"] = immutable

    def set(self, immutable: bool | None = None, **options: Any) -> Self:
        """Lay options over its own, in place; returns itself."""
        if immutable is not None:
            self.set_immutable(immutable)
        self.options.update(options)
        return self

    def freeze(self, task_id: str | None = None) -> Any:
        """Settle its task id now, in place; returns the result it will have, as in Celery."""
        if task_id is not None or "task_id" not in self.options:
            self.options["task_id"] = task_id or ids.new_id()
        return self._way_out().handle(self.options["task_id"])

    def link(self, callback: Mapping[str, Any]) -> Any:
        """Send ``callback`` with the result when this succeeds; returns ``callback``."""
        return self._append("link", callback)

    def link_error(self, errback: Mapping[str, Any]) -> Any:
        """Send ``errback`` when this fails; returns ``errback``."""
        return self._append("link_error", errback)

    def on_error(self, errback: Mapping[str, Any]) -> Self:
        """As ``link_error``, but returns itself, for chaining calls."""
        self.link_error(errback)
        return self

    def stamp(self, visitor: Any = None, append_stamps: bool = False, **stamps: Any) -> Self:
        """Label every call in it, callbacks included, in place: ``sig.stamp(tenant="a")``.

        ``visitor`` is a ``StampingVisitor``; with ``append_stamps`` stamps of one name become a list.
        """
        import_module("cloudq.canvas.stamping").stamp(self, visitor, append_stamps, stamps)
        return self

    def flatten_links(self) -> list[Any]:
        """Itself, then all callbacks that would follow from it."""
        found: list[Any] = [self]
        for each in as_list(self.options.get("link")):
            found.extend(each.flatten_links() if isinstance(each, Signature) else [each])
        return found

    def _append(self, name: str, signature: Mapping[str, Any]) -> Any:
        linked = as_list(self.options.get(name))
        if not any(each is signature for each in linked) and signature not in linked:
            linked.append(signature)
        self.options[name] = linked
        return signature

    def __or__(self, other: Any) -> Any:
        """``a | b``: ``b`` runs after ``a``, with its result."""
        if not isinstance(other, Mapping) or "task" not in other:
            return NotImplemented
        return _primitives().joined(self, other)

    def __ior__(self, other: Any) -> Any:
        return self.__or__(other)

    def __invert__(self) -> Any:
        """``~s``: send it and wait for its value."""
        return self.apply_async().get()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it here and now and return its value; errors are raised."""
        return self.apply(args, kwargs).get()

    def delay(self, *args: Any, **kwargs: Any) -> AsyncResult[Any]:
        """Send it, with further arguments before its own."""
        return self.apply_async(args, kwargs)

    async def adelay(self, *args: Any, **kwargs: Any) -> AsyncResult[Any]:
        """Asyncio twin of ``delay``."""
        return await self.aapply_async(args, kwargs)

    def apply_async(
        self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncResult[Any]:
        """Send it with further arguments and options."""
        call = self.clone(args, kwargs, **options)
        return self._way_out().send_task(call.task, call.args, call.kwargs, **call.options)

    async def aapply_async(
        self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncResult[Any]:
        """Asyncio twin of ``apply_async``."""
        call = self.clone(args, kwargs, **options)
        return await self._way_out().asend_task(call.task, call.args, call.kwargs, **call.options)

    def apply(
        self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> EagerResult[Any]:
        """Run it here and now."""
        call = self.clone(args, kwargs, **options)
        return self._way_out().apply_task(call.task, call.args, call.kwargs, **call.options)

    @property
    def sender(self) -> Sender | None:
        """The app it was made with, which sends it; None for one that was read from JSON."""
        return self._sender

    def _way_out(self) -> Sender:
        sender = self.sender
        if sender is None:
            raise ImproperlyConfigured(
                f"the signature of {self.task} belongs to no app: use app.signature(...), task.s(...) or app="
            )
        return sender

    def __reduce__(self) -> tuple[Any, ...]:
        return signature, (dict(self),)

    def __deepcopy__(self, memo: dict[int, Any]) -> Signature:
        return self.clone()

    def __repr__(self) -> str:
        shown = [repr(each) for each in self.args] + [
            f"{name}={value!r}" for name, value in self.kwargs.items()
        ]
        return f"{self.task}({', '.join(shown)})"


def as_list(found: Any) -> list[Any]:
    """``link`` and ``link_error`` hold one signature or several."""
    if found is None:
        return []
    return list(found) if isinstance(found, list | tuple) else [found]


def signature(
    varies: str | Mapping[str, Any],
    args: Iterable[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    app: Sender | None = None,
    immutable: bool = False,
    **more: Any,
) -> Signature:
    """A signature of a task's name, or of the mapping that a signature's JSON form is.

    A mapping of a chain, group or chord becomes one again. Raises ImproperlyConfigured for what is
    neither.
    """
    if isinstance(varies, Signature):
        return varies
    if isinstance(varies, str):
        return Signature(varies, args, kwargs, {**(options or {}), **more}, immutable=immutable, sender=app)
    if not isinstance(varies, Mapping) or not isinstance(varies.get("task"), str):
        raise ImproperlyConfigured(f"a signature is expected, like task.s(...), got {varies!r}")
    if varies.get("subtask_type") is None:
        return Signature(varies, sender=app)
    found: Signature = _primitives().rebuilt(varies, app)
    return found


def maybe_signature(found: Any, app: Sender | None = None) -> Any:
    """A mapping as the signature it stands for; None stays None (Celery's name)."""
    return found if found is None else signature(found, app=app)


def _primitives() -> Any:
    # by name: primitives are made of signatures, and importing cloudq needs none of them
    return import_module("cloudq.canvas.primitives")


def _copied(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, list) else value for name, value in options.items()}
