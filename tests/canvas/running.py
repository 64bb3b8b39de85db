"""Running cases and comparing what comes of them."""

from __future__ import annotations

import itertools
import os
from types import SimpleNamespace
from typing import Any

from canvas.cases import Case, Fails

from cloudq import CloudQ

_runs = itertools.count()


class Started:
    """A case that was sent."""

    def __init__(self, case: Case, app: CloudQ, tasks: dict[str, Any], eager: bool = False) -> None:
        self.case = case
        run = f"{os.getpid()}-{next(_runs)}"
        self._run = run
        self.app = app
        made = case.make(SimpleNamespace(app=app, **tasks), self.id_of)
        self.result = made.apply() if eager else made.apply_async()

    def id_of(self, name: str) -> str:
        return f"{name}-{self._run}"

    def check(self, timeout: float = 0.0) -> None:
        """Wait for it, and compare."""
        assert _value(self.result, timeout) == self.case.gives, self.case.name
        for name, wanted in self.case.also.items():
            source = getattr(self.result, "_results", None) or self.app
            found = source.handle(self.id_of(name))
            assert _value(found, timeout) == wanted, f"{self.case.name}: {name}"


class _Failed:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Fails)
            and type(self.error).__name__ == other.kind
            and other.says in str(self.error)
        )

    def __repr__(self) -> str:
        return f"{type(self.error).__name__}: {self.error}"


def _value(result: Any, timeout: float) -> Any:
    try:
        return result.get(timeout=timeout, disable_sync_subtasks=False)
    except Exception as error:
        return _Failed(error)
