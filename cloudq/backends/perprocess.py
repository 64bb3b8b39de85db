"""Something made at its first use, once in each process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PerProcess(Generic[T]):
    """A client whose sockets a forked child must not share: the child makes its own."""

    def __init__(self, make: Callable[[], T], close: Callable[[T], object]) -> None:
        self._make = make
        self._close = close
        self._lock = (os.getpid(), threading.Lock())
        self._mine: tuple[int, T] | None = None

    def get(self) -> T:
        """This process's one."""
        mine = self._mine
        if mine is not None and mine[0] == os.getpid():
            return mine[1]
        if self._lock[0] != os.getpid():
            # The parent may have held it at the fork.
            self._lock = (os.getpid(), threading.Lock())
        with self._lock[1]:
            mine = self._mine
            if mine is None or mine[0] != os.getpid():
                # The parent's is dropped, not closed: the sockets are the parent's too.
                mine = self._mine = (os.getpid(), self._make())
            return mine[1]

    def close(self) -> None:
        """Close this process's one, if there is one. A later ``get`` makes another."""
        mine, self._mine = self._mine, None
        if mine is not None and mine[0] == os.getpid():
            self._close(mine[1])
