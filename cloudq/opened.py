"""What a process has opened: made once, on first use, and closed together."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

T = TypeVar("T")


class Opened:
    """What an app has opened, per process: after a fork the child opens its own."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._things: dict[str, Any] = {}
        self._pid = os.getpid()

    def get(self, name: str, make: Callable[[], T]) -> T:
        if self._pid != os.getpid():
            self._lock, self._things, self._pid = threading.RLock(), {}, os.getpid()
        try:
            return cast("T", self._things[name])
        except KeyError:
            pass
        with self._lock:
            if name not in self._things:
                self._things[name] = make()
            return cast("T", self._things[name])

    def close(self) -> None:
        with self._lock:
            things, self._things = self._things, {}
        if self._pid == os.getpid():
            for name in ("poller", "claims", "broker", "backend"):
                if things.get(name) is not None:
                    things[name].close()
