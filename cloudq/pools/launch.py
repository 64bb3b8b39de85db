"""Starting child processes: a fresh interpreter each, or forks of one small, clean process.

Neither runs the parent's ``__main__`` again (multiprocessing does), so a worker may be started from
any script, and neither ever forks a process that has threads.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from typing import Final, Protocol

from cloudq.errors import ImproperlyConfigured
from cloudq.pools import nursery

#: Seconds that a forkserver gets to start or to fork.
_PROMPT: Final = 30.0
#: sys.path first, so that the child finds cloudq and the app wherever the parent did.
_BEGIN: Final = (
    "import sys; sys.path[:] = sys.argv[2:]; from cloudq.pools.{0} import main; main(int(sys.argv[1]))"
)


class Process(Protocol):
    """One child process."""

    #: Its process group has the same number: what the child starts can be killed with it.
    pid: int
    #: The process that it dies with (prctl).
    parent: int

    def fileno(self) -> int:
        """A descriptor that becomes readable when the process is gone."""
        ...

    def exit_code(self) -> int | None:
        """Once it is gone: exit code, or minus the number of the signal; None when nobody knows."""
        ...

    def close(self) -> None:
        """Forget the process, which is gone."""
        ...


class Launcher(Protocol):
    """Makes child processes. All calls come from one thread, which outlives the children (Linux
    ties a child's life to the *thread* that started it)."""

    def launch(self, sock: socket.socket) -> Process:
        """Start a child that serves ``sock``. Raises OSError when the system refuses."""
        ...

    def close(self) -> None:
        """No more children."""
        ...


def launcher(start_method: str) -> Launcher:
    """By name: ``spawn`` or ``forkserver``."""
    if start_method == "spawn":
        return Spawn()
    if start_method == "forkserver":
        return Forkserver()
    raise ImproperlyConfigured(
        f"start_method is 'spawn' or 'forkserver', not {start_method!r} "
        "(plain fork copies locks that other threads hold, and is not offered)"
    )


def kill(process: Process) -> None:
    """SIGKILL, for the child and what it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # gone; or a zombie on macOS
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)


def interpreter(module: str, fd: int) -> subprocess.Popen[bytes]:
    """A fresh interpreter that runs ``main(fd)`` of one of our modules, in a process group of its own.

    Its signals are those of the calling thread, which blocks what a terminal sends, until it is ready.
    """
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return subprocess.Popen(  # noqa: S603  our own interpreter
        [sys.executable, *flags, "-c", _BEGIN.format(module), str(fd), *sys.path],
        stdin=subprocess.DEVNULL,
        pass_fds=(fd,),
        process_group=0,
    )


# --- spawn -----------------------------------------------------------------------------------------


class Spawn:
    """A fresh interpreter for every child."""

    def launch(self, sock: socket.socket) -> Process:
        """As Launcher.launch."""
        return _Spawned(interpreter("child", sock.fileno()))

    def close(self) -> None:
        """Nothing to close."""


class _Spawned:
    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen
        self.pid = popen.pid
        self.parent = os.getpid()
        self._sentinel = _pidfd(popen.pid)
        if self._sentinel is None:
            self._sentinel, write = os.pipe()
            threading.Thread(target=self._wait, args=(write,), name="cloudq-reaper", daemon=True).start()

    def _wait(self, write: int) -> None:
        self._popen.wait()
        os.close(write)

    def fileno(self) -> int:
        assert self._sentinel is not None
        return self._sentinel

    def exit_code(self) -> int | None:
        return self._popen.wait()

    def close(self) -> None:
        os.close(self.fileno())


def _pidfd(pid: int) -> int | None:
    """Linux 5.3 and later."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


# --- forkserver ------------------------------------------------------------------------------------


class Forkserver:
    """One process without threads forks the children: they start faster and share its memory."""

    def __init__(self) -> None:
        self._server: tuple[subprocess.Popen[bytes], socket.socket] | None = None

    def launch(self, sock: socket.socket) -> Process:
        """As Launcher.launch. A forkserver that has died is started anew."""
        try:
            return self._fork(sock)
        except (ConnectionError, EOFError):
            self.close()
            try:
                return self._fork(sock)
            except EOFError as error:
                raise OSError("the forkserver died at its first fork") from error

    def _fork(self, sock: socket.socket) -> Process:
        server, control = self._server or self._start()
        read, write = os.pipe()
        try:
            socket.send_fds(control, [b"f"], [sock.fileno(), write])
            pid = nursery.WORD.unpack(_exactly(control, nursery.WORD.size))[0]
            if pid < 0:
                raise OSError(-pid, f"the forkserver cannot fork: {os.strerror(-pid)}")
            return _Forked(pid, server.pid, read)
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)

    def _start(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        here, there = socket.socketpair()
        with there:
            self._server = interpreter("nursery", there.fileno()), here
        here.settimeout(_PROMPT)
        return self._server

    def close(self) -> None:
        """End the forkserver; what children it still has end with it."""
        if self._server is not None:
            server, control = self._server
            self._server = None
            control.close()
            try:
                server.wait(2.0)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            raise EOFError("the forkserver is gone")
        data += part
    return data


class _Forked:
    def __init__(self, pid: int, parent: int, status: int) -> None:
        self.pid = pid
        self.parent = parent
        self._status = status

    def fileno(self) -> int:
        return self._status

    def exit_code(self) -> int | None:
        data = os.read(self._status, nursery.WORD.size)
        return int(nursery.WORD.unpack(data)[0]) if data else None

    def close(self) -> None:
        os.close(self._status)
