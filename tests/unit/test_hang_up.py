"""A call in flight that this process ends: at once, without another try, and with what has come by then."""

import json
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aws_script import self_signed

from cloudq.aws.connection import Connection
from cloudq.aws.identity import Endpoint
from cloudq.aws.lean import LeanPort
from cloudq.aws.port import Call
from cloudq.errors import ServiceUnavailable

POLL = Call("sqs", "ReceiveMessage", {"QueueUrl": "http://q/1/orders", "WaitTimeSeconds": 20}, 20.0)
BODY = json.dumps({"Messages": []}).encode()
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: " + str(len(BODY)).encode() + b"\r\n\r\n" + BODY


class Holder:
    """Accepts connections and reads requests; answers those to which it is told to, when it is told to."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._context = context
        self.port = self._listener.getsockname()[1]
        self.requests = 0
        self.connections: list[Any] = []
        self.arrived = threading.Semaphore(0)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._read, args=(plain,), daemon=True).start()

    def _read(self, plain: socket.socket) -> None:
        connection = self._context.wrap_socket(plain, server_side=True) if self._context else plain
        self.connections.append(connection)
        try:
            while connection.recv(65536):
                self.requests += 1
                self.arrived.release()
        except OSError:
            pass  # closed at the end of a test

    def close(self) -> None:
        self._listener.close()
        for each in self.connections:
            each.close()


@pytest.fixture
def holder() -> Iterator[Holder]:
    made = Holder()
    yield made
    made.close()


class Caller(threading.Thread):
    """Calls in a thread of its own."""

    def __init__(self, port: LeanPort) -> None:
        super().__init__(daemon=True)
        self._port = port
        self.error: Exception | None = None
        self.answer: Any = None

    def run(self) -> None:
        try:
            self.answer = self._port.call(POLL)
        except Exception as error:
            self.error = error


@pytest.fixture
def port(holder: Holder, monkeypatch: pytest.MonkeyPatch) -> LeanPort:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    return LeanPort(endpoint_url=f"http://127.0.0.1:{holder.port}")


def test_a_call_that_is_ended_fails_at_once_and_is_not_tried_again(holder: Holder, port: LeanPort) -> None:
    ours, others = Caller(port), Caller(port)
    for caller in (ours, others):
        caller.start()
        assert holder.arrived.acquire(timeout=10)
    assert ours.ident is not None
    port.hang_up([ours.ident])
    ours.join(5)

    assert not ours.is_alive()
    assert isinstance(ours.error, ServiceUnavailable)
    assert "ended by this process" in str(ours.error)
    assert holder.requests == 2
    assert others.is_alive(), "a call of another thread goes on"


def test_the_port_works_on_after_that(holder: Holder, port: LeanPort) -> None:
    ours = Caller(port)
    ours.start()
    assert holder.arrived.acquire(timeout=10)
    assert ours.ident is not None
    port.hang_up([ours.ident])
    ours.join(5)
    after = Caller(port)
    after.start()
    assert holder.arrived.acquire(timeout=10)
    holder.connections[-1].sendall(ANSWER)
    after.join(10)

    assert after.answer == {"Messages": []}
    assert len(holder.connections) == 2


@pytest.mark.parametrize("tls", [False, True])
def test_an_answer_that_has_come_before_is_read_all_the_same(tls: bool, tmp_path: Path) -> None:
    server = client = None
    if tls:
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.maximum_version = ssl.TLSVersion.TLSv1_2  # 1.3 sends more than the answer
        certificate = self_signed(tmp_path, "localhost")
        server.load_cert_chain(certificate)
        client = ssl.create_default_context(cafile=str(certificate))
    holder = Holder(server)
    connection = Connection(Endpoint("localhost" if tls else "127.0.0.1", holder.port, tls, "/"), client)
    try:
        connection._socket.sendall(b"POST / HTTP/1.1\r\n\r\n")
        assert holder.arrived.acquire(timeout=10)
        holder.connections[0].sendall(ANSWER)
        until = time.monotonic() + 10
        while not _readable(connection, len(ANSWER)) and time.monotonic() < until:
            time.sleep(0.01)
        connection.hang_up()

        assert connection.exchange(b"", 5.0).body == BODY
    finally:
        connection.close()
        holder.close()


def _readable(connection: Connection, size: int) -> bool:
    """Has that much arrived, at least?"""
    if not select.select([connection._socket], [], [], 0)[0]:
        return False
    with socket.socket(fileno=os.dup(connection._socket.fileno())) as copy:  # a TLS socket has no peeking
        return len(copy.recv(65536, socket.MSG_PEEK | socket.MSG_DONTWAIT)) >= size
