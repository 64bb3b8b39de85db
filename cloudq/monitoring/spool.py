"""Events on their way from a worker's child processes to itself: lines in files of one folder.

A line is written with one call, so a child that is killed leaves whole ones behind, and those are
read. Files grow to a limit and are deleted once they have been read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Final

import msgspec

#: Bytes after which a writer begins another file.
LIMIT: Final = 4 * 1024 * 1024
_SUFFIX: Final = ".events"


class Spool:
    """The writing end, one per process."""

    def __init__(self, folder: str, limit: int = LIMIT) -> None:
        self._folder = folder
        self._limit = limit
        self._number = 0
        self._file: int | None = None
        self._size = 0

    def put(self, event: dict[str, Any]) -> None:
        """Append an event. Raises OSError when the disk refuses."""
        line = msgspec.json.encode(event, enc_hook=repr) + b"\n"
        if self._file is None or self._size > self._limit:
            self._next()
        assert self._file is not None
        os.write(self._file, line)
        self._size += len(line)

    def close(self) -> None:
        """No more events."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _next(self) -> None:
        self.close()
        self._number += 1
        name = f"{os.getpid()}-{self._number:06d}{_SUFFIX}"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._file, self._size = os.open(os.path.join(self._folder, name), flags, 0o600), 0


class SpoolReader:
    """The reading end: ``read()`` gives what has come since."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._offsets: dict[str, int] = {}

    def read(self) -> Iterator[dict[str, Any]]:
        """New events, of each process in order."""
        names = sorted(each for each in os.listdir(self._folder) if each.endswith(_SUFFIX))
        newest = {name.partition("-")[0]: name for name in names}
        for name in names:
            yield from self._read(name, finished=name not in newest.values())

    def _read(self, name: str, finished: bool) -> Iterator[dict[str, Any]]:
        path = os.path.join(self._folder, name)
        offset = self._offsets.get(name, 0)
        if not finished and os.path.getsize(path) == offset:
            return
        with open(path, "rb") as file:
            file.seek(offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        for line in whole.splitlines():
            yield msgspec.json.decode(line)
        if finished:  # its writer has gone on to the next
            os.unlink(path)
            self._offsets.pop(name, None)
        else:
            self._offsets[name] = offset + len(whole)
