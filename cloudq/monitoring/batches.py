"""Lines collected into documents and written to the results store, each exactly where it was meant to go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cloudq.backends.base import ResultBackend

#: Bytes of one document, and of all that may wait; what is over is dropped and counted.
BATCH: Final = 200_000
MOST: Final = 2_000_000
#: Lines of one document.
LINES: Final = 500


class Batches:
    """``add`` takes encoded lines; ``flush`` writes them, at most BATCH bytes a document.

    ``make(lines, dropped)`` gives a document's key, value and end. A document keeps its key when it has to be
    written again, so a reply that was lost doubles nothing.
    """

    def __init__(
        self, store: ResultBackend, make: Callable[[list[bytes], int], tuple[str, bytes, float]]
    ) -> None:
        self._store = store
        self._make = make
        self._lines: list[bytes] = []
        self._size = 0
        self._dropped = 0
        self._unsent: list[tuple[str, bytes, float, int]] = []

    def add(self, line: bytes) -> None:
        """One more line, unless too many wait."""
        if self._size + len(line) > MOST:
            self._dropped += 1
            return
        self._lines.append(line)
        self._size += len(line)

    def flush(self) -> None:
        """Write what waits. Raises OperationalError; what is not written stays."""
        while self._lines:
            count, size = 0, 0
            while count < min(len(self._lines), LINES) and (
                count == 0 or size + len(self._lines[count]) <= BATCH
            ):
                size += len(self._lines[count])
                count += 1
            self._unsent.append((*self._make(self._lines[:count], self._dropped), size))
            del self._lines[:count]
            self._dropped = 0
        while self._unsent:
            key, value, expires_at, size = self._unsent[0]
            self._store.write(key, value, expires_at=expires_at)
            del self._unsent[0]
            self._size -= size
