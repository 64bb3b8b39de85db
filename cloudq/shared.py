"""Work that several threads of a process want done at once, done by one of them: a saving, never relied upon."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Final

from cloudq import forks

#: Seconds for which anybody waits for another's work: that one may hang, and the work may be repeated.
PATIENCE: Final = 10.0


class _Work:
    __slots__ = ("done", "ended", "thread")

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.ended = threading.Event()
        self.done = False


class Shared:
    """Who does what at this moment. For work that may be done twice, and whose outcome is the same whoever does it.

    Nobody leaves before it is certainly done: who comes while another is at it waits for that one's end, and
    does it himself when that one has failed, was struck down, or takes longer than ``patience`` seconds.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._works: dict[Hashable, _Work] = {}
        self._generation = forks.generation

    def __len__(self) -> int:
        """Works under way."""
        return len(self._works)

    def do(self, name: Hashable, work: Callable[[], object]) -> bool:
        """See that ``work()`` is done; True when it was done here. Raises what it raises here."""
        if self._generation != forks.generation:  # a forked child has none of the threads that were at work
            self._begin()
        mine = _Work()
        try:
            while (other := self._first(name, mine)) is not mine:
                if other.thread == mine.thread or not other.ended.wait(self._patience):
                    break
                if other.done:
                    return False
            work()
            mine.done = True
            return True
        finally:
            self._leave(name, mine)

    def _first(self, name: Hashable, mine: _Work) -> _Work:
        """The work of that name that is under way: from now on mine, if there was none."""
        with self._lock:
            return self._works.setdefault(name, mine)

    def _leave(self, name: Hashable, mine: _Work) -> None:
        with self._lock:
            if self._works.get(name) is mine:
                del self._works[name]
        mine.ended.set()
