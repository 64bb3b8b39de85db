"""The boto3 and aioboto3 ports against a small HTTP server that answers as told."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from aws_fakes import FrozenClock
from aws_script import GOOD, Script, failure, scripted

from cloudq.aws import aioboto, boto
from cloudq.aws.aioboto import AioPort
from cloudq.aws.boto import BotoPort
from cloudq.aws.errors import action, from_code
from cloudq.aws.factory import make_port
from cloudq.aws.options import OWN_ATTEMPTS
from cloudq.aws.port import AwsError, Call, Pause, arun, run
from cloudq.errors import (
    AccessDenied,
    CredentialsError,
    ImproperlyConfigured,
    MissingExtra,
    ServiceUnavailable,
)

SEND = Call("sqs", "SendMessage", {"QueueUrl": "http://q/1/orders", "MessageBody": "x"})


@pytest.fixture
def server() -> Iterator[Script]:
    with scripted() as script:
        yield script


THROTTLED = failure("RequestThrottled", query="AWS.SimpleQueueService.RequestThrottled")


def test_a_call_returns_the_answer(server: Script) -> None:
    assert BotoPort(endpoint_url=server.url).call(SEND)["MessageId"] == "m"
    _, headers, body = server.requests[0]
    assert headers["X-Amz-Target"] == "AmazonSQS.SendMessage"
    assert "Content-Encoding" not in headers
    assert "cloudq" in headers["User-Agent"]
    assert json.loads(body) == SEND.params


def test_one_client_per_service_serves_all_threads_and_a_long_poll_has_its_own(
    server: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, float, int]] = []
    original = boto.config_options

    def note(service: str, slow: bool, endpoint_url: str | None) -> dict[str, Any]:
        options = original(service, slow, endpoint_url)
        made.append((service, options["read_timeout"], options["max_pool_connections"]))
        return options

    monkeypatch.setattr(boto, "config_options", note)
    port = BotoPort(endpoint_url=server.url)
    poll = Call("sqs", "ReceiveMessage", {"QueueUrl": "http://q/1/orders"}, timeout=20.0)
    threads = [threading.Thread(target=port.call, args=(call,)) for call in (SEND, SEND, SEND, poll, poll)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.requests) == 5
    assert sorted(made) == [("sqs", 15.0, 64), ("sqs", 35.0, 64)]


def test_throttling_that_botocore_does_not_retry_is_retried_with_backoff(server: Script) -> None:
    server.answers = [THROTTLED, THROTTLED, GOOD]
    clock = FrozenClock()
    assert BotoPort(endpoint_url=server.url, clock=clock).call(SEND)["MessageId"] == "m"
    assert len(server.requests) == 3
    assert len(clock.slept) == 2
    assert all(seconds > 0 for seconds in clock.slept)


def test_throttling_without_end_becomes_service_unavailable(server: Script) -> None:
    server.answers = [THROTTLED]
    with pytest.raises(ServiceUnavailable, match="slow down") as caught:
        BotoPort(endpoint_url=server.url, clock=FrozenClock()).call(SEND)
    assert len(server.requests) == OWN_ATTEMPTS
    assert type(caught.value.__cause__).__name__ == "RequestThrottled"


def test_a_refused_message_is_an_aws_error_with_the_services_code_and_is_not_retried(server: Script) -> None:
    server.answers = [failure("QueueDoesNotExist", query="AWS.SimpleQueueService.NonExistentQueue")]
    with pytest.raises(AwsError) as caught:
        BotoPort(endpoint_url=server.url).call(SEND)
    error = caught.value
    assert (error.code, error.status) == ("AWS.SimpleQueueService.NonExistentQueue", 400)
    assert (error.service, error.operation, error.message) == ("sqs", "SendMessage", "because")
    assert error.__cause__ is not None
    assert len(server.requests) == 1


def test_a_server_error_is_retried_by_botocore(server: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
    server.answers = [failure("InternalError", 500), GOOD]
    assert BotoPort(endpoint_url=server.url).call(SEND)["MessageId"] == "m"
    server.answers = [failure("InternalError", 503)]
    with pytest.raises(ServiceUnavailable, match="503"):
        BotoPort(endpoint_url=server.url).call(SEND)
    assert len(server.requests) == 2 + 4


def test_a_server_that_is_not_there_is_service_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
    with pytest.raises(ServiceUnavailable, match=r"sqs SendMessage: no answer.*endpoint_url"):
        BotoPort(endpoint_url="http://127.0.0.1:1").call(SEND)


def test_without_credentials_the_error_says_how_to_give_them(
    server: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(CredentialsError, match="AWS_PROFILE"):
        BotoPort(endpoint_url=server.url).call(SEND)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(CredentialsError, match="AWS_PROFILE"):
        BotoPort(endpoint_url=server.url).call(SEND)
    assert server.requests == []


def test_without_a_region_the_error_says_how_to_set_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(ImproperlyConfigured, match=r"set AWS_REGION or \?region="):
        BotoPort().call(SEND)
    with pytest.raises(ImproperlyConfigured, match=r"set AWS_REGION or \?region="):
        _ = BotoPort().region
    assert BotoPort("eu-west-1").region == "eu-west-1"
    # A local endpoint needs a region for the signature only.
    assert BotoPort(endpoint_url="http://127.0.0.1:1").region == "us-east-1"


def test_an_unknown_profile_is_a_wrong_setting() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"nobody.*\?profile="):
        BotoPort(profile="nobody").call(SEND)
    with pytest.raises(ImproperlyConfigured, match="nobody"):
        AioPort(profile="nobody")


@pytest.mark.parametrize(
    ("code", "status", "kind", "words"),
    [
        ("ExpiredToken", 403, CredentialsError, "get-caller-identity"),
        ("ExpiredTokenException", 400, CredentialsError, "clock"),
        ("InvalidClientTokenId", 403, CredentialsError, "credentials"),
        ("UnrecognizedClientException", 400, CredentialsError, "credentials"),
        ("InvalidSignatureException", 403, CredentialsError, "credentials"),
        ("SignatureDoesNotMatch", 403, CredentialsError, "credentials"),
        ("RequestTimeTooSkewed", 403, CredentialsError, "clock"),
        ("AccessDenied", 403, AccessDenied, "sqs:SendMessage"),
        ("AccessDeniedException", 400, AccessDenied, "sqs:SendMessage"),
        ("403", 403, AccessDenied, "sqs:SendMessage"),
        ("AWS.SimpleQueueService.OverLimit", 403, ServiceUnavailable, "slow down"),
        ("ProvisionedThroughputExceededException", 400, ServiceUnavailable, "slow down"),
        ("SomethingNew", 502, ServiceUnavailable, "502"),
        ("InvalidAttributeName", 400, AwsError, "InvalidAttributeName"),
    ],
)
def test_each_code_becomes_the_error_it_means(
    code: str, status: int, kind: type[Exception], words: str
) -> None:
    call = Call("sqs", "SendMessageBatch", {"QueueUrl": "http://q/1/orders"})
    error = from_code(code, "one\n line", status, call)
    assert type(error) is kind
    assert words in str(error)
    assert "\n" not in str(error)
    assert "one line" in str(error)


def test_actions_have_their_iam_names() -> None:
    assert action(Call("sqs", "ChangeMessageVisibilityBatch", {})) == "sqs:ChangeMessageVisibility"
    assert action(Call("s3", "HeadObject", {})) == "s3:GetObject"
    assert action(Call("dynamodb", "PutItem", {})) == "dynamodb:PutItem"


GET = Call("s3", "GetObject", {"Bucket": "b", "Key": "k"})


def test_a_streamed_body_comes_as_bytes(server: Script) -> None:
    server.answers = [(200, b"content", {})]
    assert BotoPort(endpoint_url=server.url).call(GET)["Body"] == b"content"


def test_a_body_that_breaks_off_is_fetched_again(server: Script) -> None:
    server.answers = [(200, b"con", {"Content-Length": "7"}), (200, b"content", {})]
    assert BotoPort(endpoint_url=server.url, clock=FrozenClock()).call(GET)["Body"] == b"content"
    server.answers = [(200, b"con", {"Content-Length": "7"})]
    with pytest.raises(ServiceUnavailable, match="s3 GetObject"):
        BotoPort(endpoint_url=server.url, clock=FrozenClock()).call(GET)


@pytest.mark.parametrize("cut", [20, 40, 62, 80])
@pytest.mark.parametrize(
    ("call", "body", "found"),
    [
        (GET, b"hello", {"Body": b"hello", "ETag": '"a"'}),
        (Call("dynamodb", "ListTables", {}), b'{"TableNames":["t"]}', {"TableNames": ["t"]}),
    ],
)
def test_an_answer_whose_head_breaks_off_is_asked_for_again(
    cut: int, call: Call, body: bytes, found: dict[str, Any]
) -> None:
    """botocore takes it for whole: an object without a byte, a table that is not there."""
    head = b'HTTP/1.1 200 OK\r\nETag: "a"\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n'
    whole = head % len(body) + body
    pieces = [whole[:cut], whole[:cut], whole]
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while pieces:
                line, _ = server.accept()
                with line:
                    line.recv(65_536)
                    line.sendall(pieces.pop(0))
                    line.shutdown(socket.SHUT_WR)
                    while line.recv(65_536):  # what is left unread would be answered with a reset
                        pass

        threading.Thread(target=serve, daemon=True).start()
        port = BotoPort("us-east-1", f"http://127.0.0.1:{server.getsockname()[1]}", clock=FrozenClock())
        answer = port.call(call)
        port.close()
    assert {name: answer[name] for name in found} == found
    assert pieces == []


_ERROR = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>m</Message></Error>'
_ANSWERS = {
    "whole": b'HTTP/1.1 200 OK\r\nETag: "a"\r\nContent-Length: 5\r\n\r\nhello',
    "in chunks": b'HTTP/1.1 200 OK\r\nETag: "a"\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n',
    "an error": b"HTTP/1.1 503 Slow\r\nContent-Length: %d\r\n\r\n" % len(_ERROR) + _ERROR,
    "an error in chunks": b"HTTP/1.1 503 Slow\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n"
    % (len(_ERROR), _ERROR),
}


class Cutting:
    """A server that cuts its first answer after so many bytes, and then gives whole ones."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.cut = b""
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # closed at the end
            while True:
                line, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(line,), daemon=True).start()

    def _serve(self, line: socket.socket) -> None:
        with line, suppress(OSError):
            while line.recv(65_536):
                cut, self.cut = self.cut, b""
                line.sendall(cut or _ANSWERS["whole"])
                if cut:
                    line.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._listener.close()


@pytest.mark.parametrize("kind", list(_ANSWERS))
@pytest.mark.parametrize("driver", ["boto3", "aioboto3"])
def test_an_object_comes_whole_wherever_an_answer_breaks_off(
    driver: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every byte: no part is taken for all, and no error but ours comes out (issue 3)."""
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda seconds: None, time=time.time))
    real = asyncio.sleep
    monkeypatch.setattr("asyncio.sleep", lambda seconds, *rest: real(0, *rest))
    server = Cutting()
    ours = AioPort("us-east-1", server.url)
    theirs = BotoPort("us-east-1", server.url, clock=FrozenClock())

    async def get() -> Any:
        return await ours.call(GET) if driver == "aioboto3" else theirs.call(GET)

    async def all_cuts() -> list[int]:
        wrong = []
        for at in range(1, len(_ANSWERS[kind])):
            server.cut = _ANSWERS[kind][:at]
            if (await get())["Body"] != b"hello":
                wrong.append(at)
        await ours.close()
        return wrong

    assert asyncio.run(all_cuts()) == []
    theirs.close()
    server.close()


def test_the_same_arguments_share_a_port() -> None:
    assert make_port("eu-west-1") is make_port("eu-west-1")
    assert make_port("eu-west-1") is not make_port("eu-west-2")
    with pytest.raises(ImproperlyConfigured, match="'carrier-pigeon'; known: lean, boto3"):
        make_port(driver="carrier-pigeon")


def test_a_closed_port_opens_again(server: Script) -> None:
    port = BotoPort(endpoint_url=server.url)
    port.call(SEND)
    port.close()
    port.close()
    assert port.call(SEND)["MessageId"] == "m"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_uses_sockets_of_its_own(server: Script) -> None:
    port = make_port(endpoint_url=server.url, driver="boto3")
    assert isinstance(port, BotoPort)
    port.call(SEND)
    parents = port._mine
    parents._lock.acquire()  # as if another thread were making a client at the moment of the fork
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            same = port.call(SEND)["MessageId"] == "m" and port._mine is not parents
            fresh = make_port(endpoint_url=server.url, driver="boto3") is not port
            os.write(write, b"yes" if same and fresh else b"no")
        finally:
            os._exit(0)
    parents._lock.release()
    os.waitpid(child, 0)
    assert os.read(read, 10) == b"yes"
    os.close(read)
    os.close(write)
    assert port._mine is parents
    assert port.call(SEND)["MessageId"] == "m"


# --- asyncio -----------------------------------------------------------------------------------


async def test_the_asyncio_port_answers_and_maps_errors_alike(server: Script) -> None:
    port = AioPort(endpoint_url=server.url)
    try:
        assert (await port.call(SEND))["MessageId"] == "m"
        server.answers = [THROTTLED, GOOD]
        assert (await port.call(SEND))["MessageId"] == "m"
        server.answers = [failure("AccessDenied", 403)]
        with pytest.raises(AccessDenied, match="sqs:SendMessage"):
            await port.call(SEND)
        server.answers = [(200, b"content", {})]
        assert (await port.call(GET))["Body"] == b"content"
        server.answers = [(200, b"con", {"Content-Length": "7"}), (200, b"content", {})]
        assert (await port.call(GET))["Body"] == b"content"
    finally:
        await port.close()
        await port.close()
    server.answers = [GOOD]
    assert (await port.call(SEND))["MessageId"] == "m"
    await port.close()


async def test_parallel_first_calls_enter_one_client(server: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    original = aioboto.config_options

    def note(service: str, slow: bool, endpoint_url: str | None) -> dict[str, Any]:
        made.append(service)
        return original(service, slow, endpoint_url)

    monkeypatch.setattr(aioboto, "config_options", note)
    port = AioPort(endpoint_url=server.url)
    answers = await asyncio.gather(*(port.call(SEND) for _ in range(8)))
    assert [answer["MessageId"] for answer in answers] == ["m"] * 8
    assert made == ["sqs"]
    await port.close()


def test_each_event_loop_has_clients_of_its_own(server: Script) -> None:
    port = AioPort(endpoint_url=server.url)

    async def once() -> str:
        answer = await port.call(SEND)
        await port.close()
        return str(answer["MessageId"])

    assert [asyncio.run(once()), asyncio.run(once())] == ["m", "m"]


def test_without_aioboto3_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "aioboto3", None)
    with pytest.raises(MissingExtra, match=r"cloudq-tasks\[aio\]"):
        AioPort()


# --- operations --------------------------------------------------------------------------------


class Echo:
    region = "us-east-1"

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails

    def call(self, call: Call) -> dict[str, Any]:
        if self.fails:
            raise ServiceUnavailable("down")
        return {"was": call.operation}

    def close(self) -> None: ...


class AsyncEcho:
    region = "us-east-1"

    async def call(self, call: Call) -> dict[str, Any]:
        return Echo().call(call)

    async def close(self) -> None: ...


def operation() -> Any:
    try:
        answer = yield Call("sqs", "First", {})
    except ServiceUnavailable:
        return "failed"
    yield Pause(0.001)
    return answer["was"]


async def test_an_operation_runs_on_either_kind_of_port() -> None:
    clock = FrozenClock()
    assert run(Echo(), operation(), clock) == "First"
    assert clock.slept == [0.001]
    assert await arun(AsyncEcho(), operation()) == "First"
    assert run(Echo(fails=True), operation(), clock) == "failed"
