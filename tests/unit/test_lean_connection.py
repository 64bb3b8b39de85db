"""One connection's time limits: the kernel's and Python's keep the same promise."""

import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aws_script import self_signed

from cloudq.aws import connection as module
from cloudq.aws.connection import Connection
from cloudq.aws.http1 import HttpAnswer
from cloudq.aws.identity import Endpoint

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
Talk = Callable[[Any], None]


class Elsewhere:
    """A connection that is used in a thread of its own."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._thread = ThreadPoolExecutor(1)

    @property
    def began(self) -> bool:
        return self._connection.began

    def exchange(self, data: bytes, timeout: float) -> HttpAnswer:
        return self._thread.submit(self._connection.exchange, data, timeout).result(120)


@pytest.fixture(params=["kernel", "python", "tls"])
def talking(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Talk], Any]:
    """Gives a connection whose other side talks as told; its limits are kept by the kernel (in another thread than the
    main one), by Python, or it is TLS."""
    tls = request.param == "tls"
    monkeypatch.setattr(module, "_KERNEL_LIMITS", request.param != "python")
    certificate = self_signed(tmp_path, "localhost") if tls else None

    @contextmanager
    def make(talk: Talk) -> Iterator[Connection | Elsewhere]:
        listener = socket.create_server(("127.0.0.1", 0))

        def serve() -> None:
            plain, _ = listener.accept()
            with plain:
                if certificate is None:
                    talk(plain)
                    return
                server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                server.load_cert_chain(certificate)
                with server.wrap_socket(plain, server_side=True) as wrapped:
                    talk(wrapped)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        context = ssl.create_default_context(cafile=str(certificate)) if certificate else None
        host = "localhost" if tls else "127.0.0.1"
        connection = Connection(Endpoint(host, listener.getsockname()[1], tls, "/"), context)
        try:
            yield Elsewhere(connection) if request.param == "kernel" else connection
        finally:
            connection.close()
            listener.close()
            thread.join(30)

    return make


def test_many_exchanges_each_with_its_own_limit(talking: Callable[[Talk], Any]) -> None:
    def echo(line: Any) -> None:
        while data := line.recv(65536):
            line.sendall(HEAD % len(data) + data)

    with talking(echo) as connection:
        for number, limit in enumerate((30.0, 30.0, 60.0, 20.0, 30.0)):
            answer: HttpAnswer = connection.exchange(b"request %d" % number, limit)
            assert (answer.status, answer.body, answer.keep) == (200, b"request %d" % number, True)


def test_no_answer_is_waited_for_no_longer_than_allowed(talking: Callable[[Talk], Any]) -> None:
    over = threading.Event()

    def silent(line: Any) -> None:
        over.wait(60)

    with talking(silent) as connection:
        began = time.monotonic()
        with pytest.raises(TimeoutError, match=r"not complete after 0\.3 s"):
            connection.exchange(b"request", 0.3)
        assert 0.25 < time.monotonic() - began < 30
        assert not connection.began
        over.set()


def test_a_shorter_limit_counts_after_a_longer_one(talking: Callable[[Talk], Any]) -> None:
    over = threading.Event()

    def once(line: Any) -> None:
        line.recv(100)
        line.sendall(HEAD % 2 + b"ok")
        over.wait(60)

    with talking(once) as connection:
        assert connection.exchange(b"request", 50.0).body == b"ok"
        began = time.monotonic()
        with pytest.raises(TimeoutError, match=r"not complete after 0\.3 s"):
            connection.exchange(b"request", 0.3)
        assert time.monotonic() - began < 30
        over.set()


def test_an_answer_that_drips_is_not_waited_for_for_ever(talking: Callable[[Talk], Any]) -> None:
    over = threading.Event()

    def drip(line: Any) -> None:
        line.recv(100)
        line.sendall(HEAD % 10_000)
        while not over.wait(0.02):
            line.sendall(b"x")

    with talking(drip) as connection:
        began = time.monotonic()
        with pytest.raises(TimeoutError, match=r"not complete after 0\.5 s"):
            connection.exchange(b"request", 0.5)
        assert 0.45 < time.monotonic() - began < 30
        assert connection.began
        over.set()


def test_a_request_that_nobody_reads_is_given_up(talking: Callable[[Talk], Any]) -> None:
    over = threading.Event()

    def deaf(line: Any) -> None:
        over.wait(60)

    with talking(deaf) as connection:
        with pytest.raises(TimeoutError):
            connection.exchange(b"x" * 30_000_000, 0.5)
        over.set()


def test_a_long_request_and_a_long_answer_go_through_in_pieces(talking: Callable[[Talk], Any]) -> None:
    size = 8_000_000

    def swap(line: Any) -> None:
        left = size
        while left:
            left -= len(line.recv(65536))
        line.sendall(HEAD % size + b"y" * size)

    with talking(swap) as connection:
        assert connection.exchange(b"x" * size, 60.0).body == b"y" * size


def test_signals_in_the_main_thread_put_no_limit_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert threading.current_thread() is threading.main_thread()
    rings: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: rings.append(number))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        connection = Connection(Endpoint("127.0.0.1", silent.getsockname()[1], False, "/"), None)
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        try:
            began = time.monotonic()
            with pytest.raises(TimeoutError, match=r"not complete after 0\.4 s"):
                connection.exchange(b"request", 0.4)
            assert time.monotonic() - began < 30
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, before)
            connection.close()
    assert rings


def test_a_connection_goes_from_thread_to_thread() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connection = Connection(Endpoint("127.0.0.1", listener.getsockname()[1], False, "/"), None)
        line, _ = listener.accept()
        elsewhere = Elsewhere(connection)
        for number in range(6):
            line.sendall(HEAD % 2 + b"ok")
            user = elsewhere if number % 2 else connection
            assert user.exchange(b"request", 5.0).body == b"ok"
            assert connection._by_kernel == bool(number % 2)
            with pytest.raises(TimeoutError):
                user.exchange(b"request", 0.02)
        line.close()
        connection.close()


def test_a_green_thread_s_socket_keeps_its_own_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    class Green(socket.socket):
        """As gevent's, which replaces the standard library's."""

    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(socket, "socket", Green)
        connection = Connection(Endpoint("127.0.0.1", silent.getsockname()[1], False, "/"), None)
        with pytest.raises(TimeoutError):
            Elsewhere(connection).exchange(b"request", 0.1)
        assert connection._socket.gettimeout() == 0.1
        connection.close()
