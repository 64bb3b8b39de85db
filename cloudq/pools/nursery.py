"""The forkserver: a process with one thread and little memory that forks a prefork pool's children.

Asked with two descriptors, the child's socket and a pipe, it forks and answers with the pid (or
minus an errno). When the child has died its exit code goes into the pipe. When the pool is gone so is
the forkserver, and its children with it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import sys
from typing import Final

from cloudq.pools import child

#: A pid, an errno or an exit code.
WORD: Final = struct.Struct("!q")


def main(fd: int) -> None:
    """Serve the pool on the socket ``fd``; in a forked child, live its life."""
    os.set_inheritable(fd, False)
    wake = _listen_for_children()
    born = _serve(socket.socket(fileno=fd), wake)
    if born is not None:
        os.close(signal.set_wakeup_fd(-1))
        child.main(born)


def _listen_for_children() -> socket.socket:
    here, there = socket.socketpair()
    here.setblocking(False)
    there.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    signal.set_wakeup_fd(there.detach(), warn_on_full_buffer=False)
    return here


def _serve(control: socket.socket, wake: socket.socket) -> int | None:
    """Until the pool is gone (None), or we are a new child (its socket)."""
    pipes: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([control, wake], [], [])
        if wake in ready:
            with contextlib.suppress(BlockingIOError):
                wake.recv(4096)
            _bury(pipes)
        if control in ready:
            asked, fds, _, _ = socket.recv_fds(control, 1, 2)
            if not asked:
                return None
            pid = _fork()
            if pid == 0:
                control.close()
                wake.close()
                for pipe in (*pipes.values(), fds[1]):
                    os.close(pipe)
                return fds[0]
            os.close(fds[0])
            if pid > 0:
                pipes[pid] = fds[1]
            else:
                os.close(fds[1])
            control.sendall(WORD.pack(pid))


def _fork() -> int:
    """The pid, 0 in the child, minus an errno when the system refuses."""
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        pid = os.fork()
    except OSError as error:
        return -(error.errno or 1)
    with contextlib.suppress(OSError):  # by both sides, so that it is done whoever comes first
        os.setpgid(pid, pid)
    return pid


def _bury(pipes: dict[int, int]) -> None:
    """Tell the exit codes of the dead."""
    while pipes:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        pipe = pipes.pop(pid)
        with contextlib.suppress(BrokenPipeError):
            os.write(pipe, WORD.pack(os.waitstatus_to_exitcode(status)))
        os.close(pipe)
