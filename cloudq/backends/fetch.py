"""Many blocking calls at once, on a bounded set of threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Final, TypeVar

A = TypeVar("A")
T = TypeVar("T")

#: Calls in flight at once, of one store in one process.
THREADS: Final = 16


class Fetcher:
    """The threads of one store. They start at the first use, and anew in a forked child."""

    def __init__(self, size: int = THREADS, name: str = "cloudq-fetch") -> None:
        self._size = size
        self._name = name
        self._mine: tuple[int, ThreadPoolExecutor] | None = None

    def map(self, call: Callable[[A], T], arguments: Iterable[A]) -> list[T]:
        """``[call(each) for each in arguments]``, in parallel. Raises the first error, in order,
        after all calls have ended; those not yet begun are then left out."""
        wanted = list(arguments)
        if len(wanted) < 2:
            return [call(each) for each in wanted]
        futures = [self._executor().submit(call, each) for each in wanted]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()
            wait(futures)

    def _executor(self) -> ThreadPoolExecutor:
        mine = self._mine
        if mine is None or mine[0] != os.getpid():
            # A race makes one executor too many, without threads; a lock might be copied by a fork.
            mine = self._mine = (os.getpid(), ThreadPoolExecutor(self._size, self._name))
        return mine[1]

    def close(self) -> None:
        """Let the threads end. Idempotent."""
        mine, self._mine = self._mine, None
        if mine is not None and mine[0] == os.getpid():
            mine[1].shutdown(wait=False)
