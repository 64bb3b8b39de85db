"""A signature: a call as data, to be sent later, by somebody else, or after something else.

It is a dict (``task, args, kwargs, options, subtask_type, immutable``), as in Celery: its JSON form
is what messages carry.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cloudq import ids
from cloudq.canvas.sender import Sender
from cloudq.errors import ImproperlyConfigured
from cloudq.results.handle import AsyncResult, EagerResult


class Signature(dict[str, Any]):
    """One task call with its options. ``s.delay()`` sends it; ``s.clone(args)`` makes a variant."""

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
    ) -> Signature:
        """A copy with ``args`` put before its own, ``kwargs`` and ``options`` laid over its own.

        An immutable signature takes no further arguments.
        """
        copy = Signature(self, sender=self._sender)
        if not self.immutable:
            copy["args"] = (*args, *self.args)
            copy["kwargs"] = {**self.kwargs, **(kwargs or {})}
        copy["options"] = {**_copied(self.options), **options}
        return copy

    partial = clone

    def set(self, immutable: bool | None = None, **options: Any) -> Signature:
        """Lay options over its own, in place; returns itself."""
        if immutable is not None:
            self["immutable"] = immutable
        self.options.update(options)
        return self

    def freeze(self, task_id: str | None = None) -> Signature:
        """Settle its task id now, in place; returns itself."""
        if task_id is not None or "task_id" not in self.options:
            self.options["task_id"] = task_id or ids.new_id()
        return self

    def link(self, callback: Signature) -> Signature:
        """Send ``callback`` with the result when this succeeds; returns ``callback``."""
        return self._append("link", callback)

    def link_error(self, errback: Signature) -> Signature:
        """Send ``errback`` when this fails; returns ``errback``."""
        return self._append("link_error", errback)

    def on_error(self, errback: Signature) -> Signature:
        """As ``link_error``, but returns itself, for chaining calls."""
        self.link_error(errback)
        return self

    def _append(self, name: str, signature: Signature) -> Signature:
        linked = as_list(self.options.get(name))
        if signature not in linked:
            linked.append(signature)
        self.options[name] = linked
        return signature

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

    def _way_out(self) -> Sender:
        if self._sender is None:
            raise ImproperlyConfigured(
                f"the signature of {self.task} belongs to no app: use app.signature(...) or task.s(...)"
            )
        return self._sender

    def __reduce__(self) -> tuple[Any, ...]:
        return Signature, (dict(self),)

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


def to_plain(signature: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping that messages carry: no empty fields, no foreign ones, linked ones inside.

    Raises ImproperlyConfigured when ``signature`` is not one.
    """
    if not isinstance(signature, Mapping) or not isinstance(signature.get("task"), str):
        raise ImproperlyConfigured(f"a signature is expected, like task.s(...), got {signature!r}")
    plain: dict[str, Any] = {"task": signature["task"]}
    if signature.get("args"):
        plain["args"] = list(signature["args"])
    if signature.get("kwargs"):
        plain["kwargs"] = dict(signature["kwargs"])
    options = dict(signature.get("options") or {})
    for name in ("link", "link_error"):
        if linked := as_list(options.pop(name, None)):
            options[name] = [to_plain(each) for each in linked]
    if options:
        plain["options"] = options
    if signature.get("immutable"):
        plain["immutable"] = True
    if signature.get("subtask_type"):
        plain["subtask_type"] = signature["subtask_type"]
    return plain


def _copied(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, list) else value for name, value in options.items()}
