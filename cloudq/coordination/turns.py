"""One at a time in this process: saves work that others do just now. Never relied upon."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

#: Longest wait for somebody else's turn (seconds): it may hang, and what follows is repeatable anyway.
PATIENCE: Final = 30.0

_lock: Final = threading.Lock()
_turns: Final[dict[str, tuple[threading.Lock, int]]] = {}


@contextmanager
def turn(name: str) -> Iterator[None]:
    """Hold the turn called ``name``, in this process only, or go on without it after ``PATIENCE`` seconds."""
    with _lock:
        mine, users = _turns.get(name, (threading.Lock(), 0))
        _turns[name] = (mine, users + 1)
    held = mine.acquire(timeout=PATIENCE)
    try:
        yield
    finally:
        if held:
            mine.release()
        with _lock:
            mine, users = _turns.pop(name)
            if users > 1:
                _turns[name] = (mine, users - 1)
