"""The parent's side of one child process of the prefork pool. Guarded by the pool's lock."""

from __future__ import annotations

import contextlib
import math
import signal
import socket
import time
from collections.abc import Callable
from typing import Any, Final

from cloudq.pools import frames
from cloudq.pools.base import Active, Cancelled, Died, End, TimedOut
from cloudq.pools.claim import Done
from cloudq.pools.launch import Launcher, Process, kill

STARTING, IDLE, BUSY, LEAVING = range(4)
_CHUNK: Final = 256 * 1024


class Place:
    """One child: its process, its socket, and what it is doing."""

    def __init__(self, launcher: Launcher, boot: Callable[[int], bytes], start_timeout: float) -> None:
        """``boot(parent)`` is the first frame. Raises OSError when the system refuses a process."""
        self.sock, there = socket.socketpair()
        with there:
            try:
                self.process: Process = launcher.launch(there)
            except BaseException:
                self.sock.close()
                raise
        self.sock.setblocking(False)
        self.state = STARTING
        #: It has said that its next reply is the last.
        self.last = False
        self.done: Done | None = None
        self.running: Active | None = None
        #: How many jobs it was given.
        self.jobs = 0
        #: It was killed for ``Steerable.cancel``.
        self.cancelled = False
        self.limit = 0.0
        #: When to kill it (monotonic), and what to tell of its job then.
        self.kill_at = time.monotonic() + start_timeout
        self.why: str | None = f"killed: not ready within {start_timeout:g} s"
        #: SIGKILL was sent.
        self.killed = False
        #: It still has its end of the socket, as far as we know.
        self.talks = True
        self._frames = frames.Frames()
        self._unsent = bytearray()
        self.send(boot(self.process.parent))

    @property
    def writing(self) -> bool:
        """Is there more to send than the socket would take?"""
        return bool(self._unsent)

    # --- talking ------------------------------------------------------------------------------

    def send(self, data: bytes) -> bool:
        """Send without waiting; the rest goes out with ``flush``. False when the child is gone."""
        if self._unsent:
            self._unsent += data
            return True
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return False
        if sent < len(data):
            self._unsent += memoryview(data)[sent:]
        return True

    def flush(self) -> None:
        """Send more of what waits. A child that is gone is noticed where its end is read."""
        try:
            sent = self.sock.send(self._unsent)
        except BlockingIOError:
            return
        except OSError:
            self._unsent.clear()
            return
        del self._unsent[:sent]

    def hear(self) -> tuple[list[tuple[int, Any]], bool]:
        """Frames that have come, and whether the child may still say more."""
        heard: list[tuple[int, Any]] = []
        while True:
            try:
                data = self.sock.recv(_CHUNK)
            except BlockingIOError:
                return heard, True
            except OSError:
                return heard, False
            if not data:
                return heard, False
            heard += self._frames.feed(data)
            if len(data) < _CHUNK:
                return heard, True

    def ending(self) -> bool:
        """Does what it has said, and nobody has heard yet, end its job?"""
        if self._frames.partial:
            return True  # only replies are long enough to come in parts
        try:
            data = self.sock.recv(_CHUNK, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError:
            return False
        return not frames.ENDING.isdisjoint(frames.kinds(data))

    # --- jobs ---------------------------------------------------------------------------------

    def give(self, data: bytes, done: Done, job: Any) -> bool:
        """Hand down a job (as a frame). False, and nothing has happened, when the child is gone."""
        if not self.send(data):
            return False
        self.jobs += 1
        self.state, self.done = BUSY, done
        self.running = Active(job, time.time(), self.process.pid)
        self.kill_at, self.why = math.inf, None
        return True

    def take(self) -> Done | None:
        """The job is over: whom to tell."""
        done, self.done, self.running = self.done, None, None
        self.kill_at = math.inf
        return done

    def withdraw(self) -> None:
        """Tell it that what it does is not wanted any more."""
        self.send(frames.pack(frames.UNWANTED, frames.NUMBER.pack(self.jobs)))

    def watch(self, limit: float) -> None:
        """User code began that may run ``limit`` seconds."""
        self.limit = limit
        self.kill_at = time.monotonic() + limit

    def unwatch(self) -> None:
        """It has ended."""
        self.kill_at = math.inf

    # --- the end ------------------------------------------------------------------------------

    def dismiss(self, patience: float) -> None:
        """No more jobs: the child ends by itself after what it does, or is killed ``patience`` seconds
        later."""
        self.state = LEAVING
        self.kill_at, self.why = time.monotonic() + patience, "killed: it did not end when it was told to"
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def hung_up(self) -> None:
        """The child has closed its end. It is about to be gone; if not, it is made to."""
        self.talks = False
        if not self.killed:
            self.kill_at, self.why = time.monotonic() + 1.0, "killed: it closed its connection to the pool"

    def kill(self, why: str | None) -> None:
        """SIGKILL. ``why`` becomes the word on its job; None: it ran past its limit."""
        self.kill_at, self.why, self.killed = math.inf, why, True
        kill(self.process)

    def bury(self) -> tuple[str, End]:
        """The process is gone: what it died of, and what that means for the job it had."""
        how = describe(self.process.exit_code())
        self.process.close()
        self.sock.close()
        if self.cancelled:
            return "killed: its job was cancelled", Cancelled()
        if not self.killed:
            return how, Died(how)
        return (how, TimedOut(self.limit)) if self.why is None else (self.why, Died(self.why))


def describe(code: int | None) -> str:
    """An exit code for people."""
    if code is None:
        return "gone, nobody knows how"
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"killed by signal {-code}"
