"""The tasks of an app, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from cloudq.errors import ImproperlyConfigured, NotRegistered
from cloudq.task import Task


class Registry:
    """A mapping of name to task, whose lookup error names the nearest one.

    ``builtin(name)`` gives the tasks that every app has, or None; they are not listed.
    """

    def __init__(self, builtin: Callable[[str], Task[..., Any] | None] = lambda name: None) -> None:
        self._tasks: dict[str, Task[..., Any]] = {}
        self._builtin = builtin

    def add(self, task: Task[..., Any]) -> None:
        """Register. A second task of that name is refused, unless it is the same function again
        (a module that was imported under two names, or reloaded)."""
        present = self._tasks.get(task.name)
        if present is not None and _origin(present) != _origin(task):
            raise ImproperlyConfigured(
                f"two tasks are called {task.name!r}: {_origin(present)} and {_origin(task)}; give one a name="
            )
        self._tasks[task.name] = task

    def get(self, name: str) -> Task[..., Any] | None:
        """The task, or None."""
        return self._tasks.get(name)

    def __getitem__(self, name: str) -> Task[..., Any]:
        found = self._tasks.get(name) or self._builtin(name)
        if found is None:
            raise NotRegistered(self._unknown(name))
        return found

    def missing(self, name: str) -> str | None:
        """Why a task of that name is not known here; None when it is, or when no task at all is
        (this process only sends)."""
        if not self._tasks or name in self._tasks or self._builtin(name) is not None:
            return None
        return self._unknown(name)

    def _unknown(self, name: str) -> str:
        import difflib

        near = difflib.get_close_matches(name, self._tasks, 1)
        hint = f"; the nearest known is {near[0]!r}" if near else ""
        return f"no task is called {name!r} in this app{hint}: is its module imported (include=)?"

    def __contains__(self, name: object) -> bool:
        return name in self._tasks

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._tasks))

    def __len__(self) -> int:
        return len(self._tasks)


def _origin(task: Task[..., Any]) -> str:
    code = getattr(task.__wrapped__, "__code__", None)  # type: ignore[attr-defined]
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else repr(task)
