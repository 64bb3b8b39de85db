"""A child of the prefork pool: makes its runner, then does one job at a time on its main thread."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import pickle
import resource
import signal
import socket
import sys
import traceback
from collections import deque
from typing import Any, Final

from cloudq.errors import CloudQError
from cloudq.pools import frames, runners
from cloudq.pools.alarm import AlarmWatch
from cloudq.pools.base import Died, Finished, Runner
from cloudq.pools.guard import attempt, guarded

_PR_SET_PDEATHSIG: Final = 1
_CHUNK: Final = 256 * 1024


class Link:
    """The child's end of the socket. A parent that is gone reads as the end of everything."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._frames = frames.Frames()
        self._ready: deque[tuple[int, Any]] = deque()
        self._unwanted = 0
        #: How many jobs have come.
        self.jobs = 0

    def next_job(self) -> bytes | None:
        """The next job; None when there is none to come."""
        while (frame := self.receive()) is not None:
            if frame[0] == frames.JOB:
                self.jobs += 1
                body: bytes = frame[1]
                return body
            self._note(frame)
        return None

    def wanted(self, ask: bool) -> bool:
        """Is the job that came last still wanted?"""
        if not self._glance() or self._unwanted == self.jobs:
            return False
        if not ask:
            return True
        self.send(frames.pack(frames.ASK))
        while (frame := self.receive()) is not None:
            if frame[0] == frames.ANSWER:
                return bool(frame[1] == frames.YES)
            self._note(frame)
        return False

    def _glance(self) -> bool:
        """Take in what has been said meanwhile; False when the parent is gone."""
        try:
            data = self._sock.recv(_CHUNK, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        for frame in self._frames.feed(data):
            self._note(frame)
        return bool(data)

    def _note(self, frame: tuple[int, Any]) -> None:
        if frame[0] == frames.UNWANTED:
            self._unwanted = frames.NUMBER.unpack(frame[1])[0]

    def receive(self) -> tuple[int, Any] | None:
        """The next frame; None when the parent has closed its end or is gone."""
        while not self._ready:
            try:
                data = self._sock.recv(_CHUNK)
            except ConnectionError:
                return None
            if not data:
                return None
            self._ready.extend(self._frames.feed(data))
        return self._ready.popleft()

    def send(self, data: bytes) -> None:
        """Send frames. Without a parent there is nobody to answer, so the child ends here."""
        try:
            self._sock.sendall(data)
        except ConnectionError:
            os._exit(0)


class ChildWatch:
    """Soft limits by the child's own alarm; hard ones are told to the parent, who can kill."""

    def __init__(self, link: Link) -> None:
        self._link = link
        quiet = (guarded, attempt, ChildWatch.end, ChildWatch.leave)
        self._alarm = AlarmWatch(quiet=quiet, entering=(ChildWatch.begin,))
        self._told = False
        self.limit = 0.0

    def enter(self) -> None:
        """A job starts."""
        self._told = False
        self._alarm.enter()

    def leave(self) -> None:
        """The job is over (its reply ends the hard limit too)."""
        self._alarm.leave()

    def begin(self, soft: float | None, hard: float | None) -> None:
        """As Watch.begin."""
        if hard is not None:
            self.limit = hard
            self._told = True
            self._link.send(frames.pack(frames.BEGIN, frames.FLOAT.pack(hard)))
        self._alarm.begin(soft, None)

    def wanted(self, ask: bool) -> bool:
        """As RemoteWatch.wanted."""
        return self._link.wanted(ask)

    def eased(self) -> None:
        """As RemoteWatch.eased."""
        self._link.send(frames.pack(frames.EASED))

    def end(self) -> None:
        """As Watch.end."""
        self._alarm.end()
        if self._told:
            self._told = False
            self._link.send(frames.pack(frames.END))


def main(fd: int) -> None:
    """The life of a child on the socket ``fd``: until the parent closes its end, or is gone."""
    _take_signals()
    os.set_inheritable(fd, False)
    link = Link(socket.socket(fileno=fd))
    first = link.receive()
    if first is None:
        return
    boot: frames.Boot = pickle.loads(first[1])  # noqa: S301  from our own parent
    sys.argv = list(boot.argv)
    _die_with(boot.parent)
    try:
        runner = runners.make(boot.spec)
    except (CloudQError, SystemExit, KeyboardInterrupt) as error:
        link.send(frames.pack(frames.FAILED, _explain(error)))
        raise SystemExit(1) from None
    link.send(frames.pack(frames.READY))
    try:
        _serve(link, runner, boot)
    finally:
        runners.close(runner)


def _serve(link: Link, runner: Runner, boot: frames.Boot) -> None:
    watch = ChildWatch(link)
    count = 0
    while (job := link.next_job()) is not None:
        answer = _do(runner, job, watch)
        count += 1
        last = (boot.max_tasks is not None and count >= boot.max_tasks) or (
            boot.max_memory is not None and _memory() > boot.max_memory
        )
        link.send(frames.pack(frames.LEAVING) + answer if last else answer)
        if last:
            return
        del job, answer


def _do(runner: Runner, body: bytes, watch: ChildWatch) -> bytes:
    try:
        job = pickle.loads(body)  # noqa: S301  from our own parent
    except Exception as error:  # noqa: BLE001  anything may come out of an unpickling class
        return frames.pack(
            frames.UNREAD, f"the child cannot read the job: {type(error).__name__}: {error}".encode()
        )
    end = guarded(runner, job, watch)
    if isinstance(end, Died):
        return frames.pack(frames.LOST, end.detail.encode())
    assert isinstance(end, Finished)  # an alarm without a hard limit times nothing out
    try:
        return frames.pack(frames.REPLY, pickle.dumps(end.reply, 5))
    except Exception as error:  # noqa: BLE001  anything may come out of a pickling class
        text = f"the reply, a {type(end.reply).__name__}, cannot be pickled: {type(error).__name__}: {error}"
        return frames.pack(frames.LOST, text.encode())


def _memory() -> int:
    """The most memory that this process has held, in bytes.

    Not ``ru_maxrss`` where Linux offers better: that begins with the peak of whoever started us.
    """
    try:
        with open("/proc/self/status", "rb") as file:
            for line in file:
                if line.startswith(b"VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


# --- the process ---------------------------------------------------------------------------------


def _take_signals() -> None:
    """The parent decides when we stop, not a Ctrl-C or a SIGTERM to everybody.

    A handler that does nothing, not SIG_IGN, which programs that a task starts would inherit; a
    process that a task forks gets the defaults back.
    """
    mine = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    for number in mine:
        signal.signal(number, _nothing)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, mine)  # the parent blocked them until we were ready
    os.register_at_fork(after_in_child=lambda: [signal.signal(n, signal.SIG_DFL) for n in mine])
    faulthandler.enable()  # a segmentation fault says where


def _nothing(_signum: int, _frame: Any) -> None:
    pass


def _die_with(parent: int) -> None:
    """Be killed when the parent dies (Linux); elsewhere the end of the socket is what we notice."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before we asked
        os._exit(0)


def _explain(error: BaseException) -> bytes:
    """The error, and where the app raised it, for the person who started the worker."""
    cause = error.__cause__ or error
    trace = traceback.extract_tb(cause.__traceback__)
    where = f" ({trace[-1].filename}:{trace[-1].lineno})" if trace else ""
    return f"{error}{where}".encode("utf-8", "replace")
