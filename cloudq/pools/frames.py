"""What goes over the wire between a prefork pool and its children: length, kind, body."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Final

from cloudq.pools.base import RunnerSpec

# Down
BOOT: Final = 1  # a pickled Boot, the first thing a child reads
JOB: Final = 2  # a pickled job
UNWANTED: Final = 3  # the job of that NUMBER is no longer wanted
ANSWER: Final = 4  # to ASK: YES or NO
# Up
READY: Final = 11  # the runner is made
FAILED: Final = 12  # it could not be made; the body says why
BEGIN: Final = 13  # user code with a hard limit begins; the body is the limit in seconds (FLOAT)
END: Final = 14  # and has ended
LEAVING: Final = 15  # the next reply is the last one: this child ends itself
REPLY: Final = 16  # a pickled reply
LOST: Final = 17  # there is no reply; the body says why
UNREAD: Final = 18  # the job could not be read and was not run; the body says why
ASK: Final = 19  # is the job that runs still wanted?
EASED: Final = 20  # as RemoteWatch.eased

#: After one of these the job is over, or as good as over.
ENDING: Final = frozenset((END, LEAVING, REPLY, LOST, UNREAD))

FLOAT: Final = struct.Struct("!d")
NUMBER: Final = struct.Struct("!Q")  # jobs are counted from 1, per child
YES: Final = b"\x01"
NO: Final = b"\x00"
_HEAD: Final = struct.Struct("!IB")


@dataclass(frozen=True, slots=True)
class Boot:
    """What a child needs to know to begin."""

    spec: RunnerSpec
    argv: tuple[str, ...]
    max_tasks: int | None
    #: Bytes.
    max_memory: int | None
    #: Who to die with.
    parent: int


def pack(kind: int, body: bytes = b"") -> bytes:
    """One frame."""
    return _HEAD.pack(len(body), kind) + body


def kinds(data: bytes) -> list[int]:
    """The kinds of the frames that begin in ``data``, which begins with one."""
    found, at = [], 0
    while len(data) - at >= _HEAD.size:
        size, kind = _HEAD.unpack_from(data, at)
        found.append(kind)
        at += _HEAD.size + size
    return found


class Frames:
    """Puts frames together again from what the socket gives."""

    def __init__(self) -> None:
        self._rest = bytearray()

    @property
    def partial(self) -> bool:
        """Has a frame come in part?"""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[tuple[int, Any]]:
        """The frames that are complete now, as ``(kind, body)``; bodies are bytes or bytearrays."""
        if not self._rest and len(data) >= _HEAD.size:
            size, kind = _HEAD.unpack_from(data)
            if len(data) == _HEAD.size + size:  # nearly always
                return [(kind, data[_HEAD.size :])]
        self._rest += data
        found: list[tuple[int, Any]] = []
        at, held = 0, len(self._rest)
        while held - at >= _HEAD.size:
            size, kind = _HEAD.unpack_from(self._rest, at)
            if held - at < _HEAD.size + size:
                break
            found.append((kind, bytes(memoryview(self._rest)[at + _HEAD.size : at + _HEAD.size + size])))
            at += _HEAD.size + size
        if at:
            del self._rest[:at]
        return found
