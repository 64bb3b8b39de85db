"""Tasks that every app has: what ``map``, ``starmap`` and a replacing group are sent as."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from cloudq.canvas.plan import ACCUMULATE, MAP, STARMAP
from cloudq.canvas.sender import Sender
from cloudq.task import Task

if TYPE_CHECKING:
    from cloudq.registry import Registry


def builtin(name: str, sender: Sender, registry: Registry) -> Task[..., Any] | None:
    """The task of that name, or None."""

    def run(task: Mapping[str, Any], *args: Any) -> Any:
        target = registry[task["task"]]
        value = target.entry(*args, *task.get("args", ()), **task.get("kwargs", {}))
        if inspect.iscoroutine(value):
            from cloudq import aio

            return aio.run(value)
        return value

    def each(task: Mapping[str, Any], it: list[Any]) -> list[Any]:
        return [run(task, item) for item in it]

    def star(task: Mapping[str, Any], it: list[Any]) -> list[Any]:
        return [run(task, *item) for item in it]

    def accumulate(*args: Any, index: int | None = None) -> Any:
        return args if index is None else args[index]

    functions: dict[str, Callable[..., Any]] = {MAP: each, STARMAP: star, ACCUMULATE: accumulate}
    function = functions.get(name)
    return Task(function, sender, name, {}) if function is not None else None
