"""Connections to one service: opened when needed, kept alive, never shared by two calls."""

from __future__ import annotations

import os
import select
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Collection
from typing import Final

from cloudq.aws.http1 import AnswerReader, HttpAnswer
from cloudq.aws.identity import Endpoint
from cloudq.aws.options import CONNECT_TIMEOUT

_PIECE: Final = 262_144
#: Seconds after which an unused connection is looked at before it is used again, and dropped.
_FRESH: Final = 0.2
_STALE: Final = 55.0
#: Seconds that an answer in several pieces may have taken before its time limit is set anew.
_SLACK: Final = 0.05
#: Where the kernel keeps a socket's time limits as a C ``struct timeval``.
_KERNEL_LIMITS: Final = sys.platform in ("linux", "darwin")
_TIMEVAL: Final = struct.Struct("@ll")


class Connection:
    """One connection. ``began``: has anything of the last answer come?"""

    def __init__(self, endpoint: Endpoint, context: ssl.SSLContext | None) -> None:
        self.endpoint = endpoint
        self.began = False
        self.idle_since = 0.0
        #: Its call was ended by ``hang_up``.
        self.ended = False
        #: Seconds that a send or a read may take, as the socket knows it; is it the kernel's?
        self._limit = -1.0
        self._by_kernel = False
        plain = socket.create_connection((endpoint.host, endpoint.port), CONNECT_TIMEOUT)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._socket = context.wrap_socket(plain, server_hostname=endpoint.host) if context else plain
            # Green threads bring sockets of their own, which never block in the kernel.
            self._plain = context is None and type(plain).__module__ == socket.__name__
        except BaseException:
            plain.close()
            raise

    def exchange(self, data: bytes, timeout: float) -> HttpAnswer:
        """Send a request and read its answer, within ``timeout`` seconds in all.

        Raises OSError (TimeoutError among them) or BrokenAnswer; the connection is of no use then.
        """
        deadline = time.monotonic() + timeout
        reader = AnswerReader()
        self.began = False
        self._set_limit(timeout)
        try:
            sent = self._socket.send(data)
            while sent < len(data):
                self._limit_to(deadline)
                sent += self._socket.send(memoryview(data)[sent:])
            while True:
                piece = self._socket.recv(_PIECE)
                answer = reader.feed(piece)
                self.began = True
                if answer is not None:
                    return answer
                self._limit_to(deadline)
        except (BlockingIOError, TimeoutError):  # the kernel's word for it, and Python's
            raise TimeoutError(f"the answer was not complete after {timeout:g} s") from None

    def _limit_to(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if left < self._limit - _SLACK:
            self._set_limit(left)

    def _set_limit(self, seconds: float) -> None:
        """How long a send or a read may take from now on.

        By the kernel where it can: Python's own limits are a poll before every send and read, and every such
        call gives the interpreter's lock away and has to get it back. A TLS socket would not notice; and in the main
        thread each signal that comes (a timer's, say) would begin the kernel's limit anew.
        """
        by_kernel = self._plain and _KERNEL_LIMITS and threading.get_ident() != threading.main_thread().ident
        if seconds == self._limit and by_kernel == self._by_kernel:
            return
        if by_kernel:
            micros = max(1, round(seconds * 1e6))  # zero would be no limit
            value = _TIMEVAL.pack(*divmod(micros, 1_000_000))
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)
            self._socket.settimeout(None)
        else:
            self._socket.settimeout(seconds)
        self._limit, self._by_kernel = seconds, by_kernel

    def usable(self, now: float) -> bool:
        """Is it worth another request? What the other side has closed is readable."""
        idle = now - self.idle_since
        if idle < _FRESH:
            return True
        if idle > _STALE:
            return False
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return not poll.poll(0)

    def shutdown(self) -> None:
        """End a call in flight in another thread: it gets an error at once."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is down already

    def hang_up(self) -> None:
        """As ``shutdown``; but an answer that has come by now is still read."""
        self.ended = True
        try:
            # through a copy: a TLS socket that is shut down itself forgets how to decrypt
            with socket.socket(fileno=os.dup(self._socket.fileno())) as copy:
                copy.shutdown(socket.SHUT_RD)
        except OSError:
            pass  # it is down already

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class Connections:
    """The idle connections of a process, last used first, and those at work. Thread-safe."""

    def __init__(self, most_idle: int) -> None:
        self._most_idle = most_idle
        self._idle: dict[Endpoint, list[Connection]] = {}
        self._busy: dict[Connection, int] = {}
        self._lock = threading.Lock()

    def take(self, endpoint: Endpoint) -> Connection | None:
        """An idle connection that looks alive, or None."""
        now = time.monotonic()
        while True:
            try:
                connection = self._idle[endpoint].pop()
            except (KeyError, IndexError):
                return None
            if connection.usable(now):
                return connection
            connection.close()

    def busy(self, connection: Connection) -> None:
        """Remember a connection at work for this thread, so that ``close`` and ``hang_up`` find it."""
        self._busy[connection] = threading.get_ident()

    def give(self, connection: Connection, keep: bool) -> None:
        """Take a connection back after its call."""
        self._busy.pop(connection, None)
        idle = self._idle.setdefault(connection.endpoint, [])
        if keep and not connection.ended and len(idle) < self._most_idle:
            connection.idle_since = time.monotonic()
            idle.append(connection)
        else:
            connection.close()

    def drop(self, connection: Connection) -> None:
        """Close a connection whose call went wrong."""
        self._busy.pop(connection, None)
        connection.close()

    def hang_up(self, threads: Collection[int]) -> None:
        """End the calls that these threads are in."""
        for connection, thread in self._busy.copy().items():
            if thread in threads:
                connection.hang_up()

    def close(self) -> None:
        """Close what is idle; end what is at work."""
        with self._lock:
            idle, self._idle = self._idle, {}
            busy = list(self._busy)
        for connections in idle.values():
            for connection in connections:
                connection.close()
        for connection in busy:
            connection.shutdown()
