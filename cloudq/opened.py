"""What a process has opened: made once, on first use, and closed together."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from cloudq import forks

T = TypeVar("T")


class Opened:
    """What an app has opened, per process: after a fork the child opens its own."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._things: dict[str, Any] = {}
        self._generation = forks.generation

    def get(self, name: str, make: Callable[[], T]) -> T:
        """What has that name; made now, if nothing has."""
        if self._generation != forks.generation:
            self._begin()
        try:
            found: T = self._things[name]
            return found
        except KeyError:
            pass
        with self._lock:
            if name not in self._things:
                self._things[name] = make()
            made: T = self._things[name]
        return made

    def close(self) -> None:
        """Close all of it. What a parent process has opened is left to the parent."""
        if self._generation != forks.generation:
            self._begin()
        with self._lock:
            things, self._things = self._things, {}
        for name in ("poller", "claims", "broker", "backend"):
            if things.get(name) is not None:
                things[name].close()
