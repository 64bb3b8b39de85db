"""Doing together what several threads ask for at once: what comes during a call goes with the next one.

A caller who is alone never waits for company; each gets an outcome of its own.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

C = TypeVar("C")

#: Seconds after which one who waits looks whether anybody is at work at all.
LOOK: Final = 1.0


class Letter(Generic[C]):
    """What one caller wants, and what came of it: ``answer`` or ``error``, once it is ``settled``."""

    __slots__ = ("answer", "content", "error", "settled", "size")

    def __init__(self, content: C, size: int) -> None:
        self.content = content
        self.size = size
        self.answer: Any = None
        self.error: Exception | None = None
        self.settled = False

    def succeed(self, answer: Any) -> None:
        """It is done."""
        self.answer, self.settled = answer, True

    def fail(self, error: Exception) -> None:
        """It cannot be done."""
        self.error, self.settled = error, True


class Joint(Generic[C]):
    """Letters in the order in which they came; one call at a time, made by one of those who wait.

    ``deliver(letters)`` settles each; what it raises settles those that it has not. ``limits()`` says how
    many letters, of which size together, one call takes. ``interrupted()`` makes the error for callers whose letter
    was with a thread that was struck down.
    """

    def __init__(
        self,
        deliver: Callable[[list[Letter[C]]], None],
        limits: Callable[[], tuple[int, int]],
        interrupted: Callable[[], Exception],
    ) -> None:
        self._deliver = deliver
        self._limits = limits
        self._interrupted = interrupted
        self._begin()
        _all.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiters = 0
        self._letters: list[Letter[C]] = []
        #: The letter of the caller who makes the calls now.
        self._server: Letter[C] | None = None

    def __len__(self) -> int:
        """Letters that wait."""
        return len(self._letters)

    def do(self, content: C, size: int = 0) -> Any:
        """The answer to this letter. Raises its error."""
        letter = Letter(content, size)
        try:
            with self._lock:
                self._letters.append(letter)
                while self._server is not None and not letter.settled:
                    self._wait()
                if not letter.settled:
                    self._server = letter
            while not letter.settled:  # it is our turn; letters of others may have to go first
                if self._is_lost(letter):
                    letter.fail(self._interrupted())
                else:
                    self._serve()
        finally:
            if self._server is letter or not letter.settled:
                self._leave(letter)
        if letter.error is not None:
            raise letter.error
        return letter.answer

    def _serve(self) -> None:
        batch = self._take()
        try:
            self._deliver(batch)
        except Exception as error:  # noqa: BLE001  each caller is to see it
            for each in batch:
                if not each.settled:
                    each.fail(error)
        finally:
            for each in batch:
                if not each.settled:
                    each.fail(self._interrupted())
            with self._lock:
                if self._waiters:
                    self._changed.notify_all()

    def _is_lost(self, letter: Letter[C]) -> bool:
        """Was it taken by a thread that was struck down before it could settle it?"""
        with self._lock:
            return letter not in self._letters

    def _take(self) -> list[Letter[C]]:
        """The letters of the next call: at least one."""
        most, room = self._limits()
        with self._lock:
            taken, size = 1, self._letters[0].size
            while taken < min(most, len(self._letters)) and size + self._letters[taken].size <= room:
                size += self._letters[taken].size
                taken += 1
            batch, self._letters = self._letters[:taken], self._letters[taken:]
            return batch

    def _wait(self) -> None:
        """Until letters are settled, or another may serve. Under the lock."""
        self._waiters += 1
        try:
            self._changed.wait(LOOK)
        finally:
            self._waiters -= 1

    def _leave(self, letter: Letter[C]) -> None:
        """Its caller goes, served or interrupted: another may serve."""
        with self._lock:
            if not letter.settled and letter in self._letters:
                self._letters.remove(letter)
            if self._server is letter:
                self._server = None
            if self._waiters:
                self._changed.notify_all()


_all: Final[weakref.WeakSet[Joint[Any]]] = weakref.WeakSet()


def _begin_anew() -> None:
    """In a forked child: whoever made a call, or waited, is a thread of the parent."""
    for each in list(_all):
        each._begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
