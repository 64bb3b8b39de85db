"""The lean AWS ports, sync and asyncio, against a server that answers as told."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aws_fakes import FrozenClock
from aws_script import GOOD, Script, failure, scripted, self_signed

from cloudq.aws.aiolean import AsyncLeanPort
from cloudq.aws.identity import Endpoint, Identity
from cloudq.aws.lean import LeanPort, needs_proxy, tls_context
from cloudq.aws.options import MAX_ATTEMPTS
from cloudq.aws.port import AwsError, Call
from cloudq.aws.quota import CAPACITY, RETRY_COST, RetryQuota
from cloudq.errors import AccessDenied, CredentialsError, ImproperlyConfigured, ServiceUnavailable

SEND = Call("sqs", "SendMessage", {"QueueUrl": "http://q/1/orders", "MessageBody": "x"})
THROTTLED = failure("RequestThrottled", query="AWS.SimpleQueueService.RequestThrottled")


@pytest.fixture
def server() -> Iterator[Script]:
    with scripted() as script:
        yield script


class Sync:
    """A lean port, called as the asyncio one is."""

    def __init__(self, url: str, clock: Any = None) -> None:
        self.port = LeanPort(endpoint_url=url, clock=clock or FrozenClock())

    async def call(self, call: Call) -> Any:
        return self.port.call(call)

    async def close(self) -> None:
        self.port.close()


class Async(Sync):
    def __init__(self, url: str, clock: Any = None) -> None:
        self.aport = AsyncLeanPort(endpoint_url=url, clock=clock or FrozenClock())

    async def call(self, call: Call) -> Any:
        return await self.aport.call(call)

    async def close(self) -> None:
        await self.aport.close()


@pytest.fixture(params=[Sync, Async])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[Sync]:
    monkeypatch.setattr("cloudq.aws.wire.LEAN_BACKOFF", (0.001, 0.002))
    return request.param


async def test_a_call_is_signed_named_and_answered(server: Script, kind: type[Sync]) -> None:
    port = kind(server.url)
    assert (await port.call(SEND))["MessageId"] == "m"
    path, headers, body = server.requests[0]
    found = {name.lower(): value for name, value in headers.items()}
    assert path == "/"
    assert found["x-amz-target"] == "AmazonSQS.SendMessage"
    assert found["authorization"].startswith("AWS4-HMAC-SHA256 Credential=")
    assert found["content-type"] == "application/x-amz-json-1.0"
    assert found["x-amzn-query-mode"] == "true"
    assert "cloudq" in found["user-agent"]
    assert json.loads(body) == SEND.params
    await port.close()


async def test_calls_share_a_kept_connection(server: Script, kind: type[Sync]) -> None:
    port = kind(server.url)
    for _ in range(5):
        await port.call(SEND)
    assert server.connections == 1
    await port.close()
    assert (await port.call(SEND))["MessageId"] == "m"
    assert server.connections == 2
    await port.close()


async def test_a_connection_that_the_server_gave_up_is_replaced_without_a_pause(kind: type[Sync]) -> None:
    clock = FrozenClock()
    with closing_server() as (url, seen):
        port = kind(url, clock)
        for _ in range(3):
            assert (await port.call(SEND))["MessageId"] == "m"
        assert seen == [1, 1, 1]
        assert clock.slept == []
        await port.close()


async def test_throttling_and_server_errors_are_tried_again(server: Script, kind: type[Sync]) -> None:
    server.answers = [THROTTLED, failure("InternalError", 500), (502, b"<html>", {}), GOOD]
    port = kind(server.url)
    assert (await port.call(SEND))["MessageId"] == "m"
    assert len(server.requests) == 4
    server.answers = [THROTTLED]
    with pytest.raises(ServiceUnavailable, match="slow down"):
        await port.call(SEND)
    assert len(server.requests) == 4 + MAX_ATTEMPTS
    await port.close()


async def test_a_refusal_is_told_at_once_in_the_services_code(server: Script, kind: type[Sync]) -> None:
    server.answers = [failure("QueueDoesNotExist", query="AWS.SimpleQueueService.NonExistentQueue")]
    port = kind(server.url)
    with pytest.raises(AwsError) as caught:
        await port.call(SEND)
    assert caught.value.code == "AWS.SimpleQueueService.NonExistentQueue"
    server.answers = [failure("AccessDenied", 403)]
    with pytest.raises(AccessDenied, match="sqs:SendMessage"):
        await port.call(SEND)
    assert len(server.requests) == 2
    await port.close()


async def test_an_answer_that_breaks_off_is_asked_for_again(server: Script, kind: type[Sync]) -> None:
    server.answers = [
        (200, b"{", {"Content-Length": "7"}),
        (200, {"MessageId": "m", "MD5OfMessageBody": "0"}, {}),
        GOOD,
    ]
    port = kind(server.url)
    assert (await port.call(SEND))["MessageId"] == "m"
    assert len(server.requests) == 3
    await port.close()


async def test_a_server_that_is_not_there_is_named(kind: type[Sync]) -> None:
    port = kind("http://127.0.0.1:1")
    with pytest.raises(ServiceUnavailable, match=r"sqs SendMessage: no answer.*endpoint_url") as caught:
        await port.call(SEND)
    assert isinstance(caught.value.__cause__, OSError)
    await port.close()


async def test_a_server_that_hangs_is_given_up(kind: type[Sync], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloudq.aws.wire.READ_TIMEOUTS", {"sqs": 0.05})
    monkeypatch.setattr("cloudq.aws.wire.MAX_ATTEMPTS", 2)
    monkeypatch.setattr("cloudq.aws.aiolean.CONNECT_TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = kind(f"http://127.0.0.1:{deaf.getsockname()[1]}")
        with pytest.raises(ServiceUnavailable, match="timed out"):
            await port.call(SEND)
        await port.close()


async def test_a_clock_that_is_wrong_is_corrected_by_the_answers_date(
    server: Script, kind: type[Sync]
) -> None:
    clock = FrozenClock(1_700_000_000.0)
    theirs = 1_700_003_600.0
    status, body, _ = failure("InvalidSignatureException", 403)
    server.answers = [(status, body, {"X-Date": "no"}), GOOD]
    server.date = formatdate(theirs, usegmt=True)
    port = kind(server.url, clock)
    assert (await port.call(SEND))["MessageId"] == "m"
    dates = [{n.lower(): v for n, v in headers.items()}["x-amz-date"] for _, headers, _ in server.requests]
    assert dates == ["20231114T221320Z", "20231114T231320Z"]
    server.answers = [(status, body, {})]
    with pytest.raises(CredentialsError, match="clock"):  # the clock is right now: it was the key
        await port.call(SEND)
    assert len(server.requests) == 3
    await port.close()


async def test_without_credentials_the_error_says_how_to_give_them(
    server: Script, kind: type[Sync], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    port = kind(server.url)
    with pytest.raises(CredentialsError, match="AWS_PROFILE"):
        await port.call(SEND)
    assert server.requests == []
    await port.close()


async def test_without_a_region_the_error_says_how_to_set_it(
    kind: type[Sync], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    port = LeanPort() if kind is Sync else AsyncLeanPort()
    with pytest.raises(ImproperlyConfigured, match=r"set AWS_REGION or \?region="):
        _ = port.region
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert (LeanPort() if kind is Sync else AsyncLeanPort()).region == "eu-west-1"


async def test_rare_operations_are_the_sdks(server: Script, kind: type[Sync]) -> None:
    server.answers = [(200, {"QueueUrls": ["http://q/1/a"]}, {})]
    port = kind(server.url)
    assert (await port.call(Call("sqs", "ListQueues", {})))["QueueUrls"] == ["http://q/1/a"]
    assert "boto" in server.requests[0][1]["User-Agent"].lower()
    await port.close()


def test_many_threads_have_a_connection_each_and_keep_them(server: Script) -> None:
    port = LeanPort(endpoint_url=server.url)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(20):
                assert port.call(SEND)["MessageId"] == "m"
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(server.requests) == 160
    assert server.connections <= 8
    port.close()


async def test_parallel_calls_of_one_loop_do_not_mix_their_answers(server: Script) -> None:
    port = AsyncLeanPort(endpoint_url=server.url)
    answers = await asyncio.gather(*(port.call(SEND) for _ in range(20)))
    assert [each["MessageId"] for each in answers] == ["m"] * 20
    await port.close()


def test_an_asyncio_port_serves_one_loop_after_another(server: Script) -> None:
    port = AsyncLeanPort(endpoint_url=server.url)
    for _ in range(2):
        assert asyncio.run(port.call(SEND))["MessageId"] == "m"


def test_closing_the_port_ends_a_long_poll_in_flight() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = LeanPort(endpoint_url=f"http://127.0.0.1:{deaf.getsockname()[1]}", clock=FrozenClock())
        port._state().quota = RetryQuota(0)
        ended: list[BaseException] = []

        def poll() -> None:
            try:
                port.call(Call("sqs", "ReceiveMessage", {"QueueUrl": "q"}, timeout=120.0))
            except ServiceUnavailable as error:
                ended.append(error)

        thread = threading.Thread(target=poll)
        thread.start()
        peer, _ = deaf.accept()
        peer.recv(10_000)
        port.close()
        thread.join(30.0)
        assert len(ended) == 1
        peer.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_uses_sockets_of_its_own(server: Script) -> None:
    port = LeanPort(endpoint_url=server.url)
    port.call(SEND)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, b"yes" if port.call(SEND)["MessageId"] == "m" else b"no")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 10) == b"yes"
    os.close(read)
    os.close(write)
    assert port.call(SEND)["MessageId"] == "m"
    assert server.connections == 2  # the parent's own, kept, and the child's
    port.close()


def test_while_moto_stands_in_for_aws_the_sdk_makes_every_call(
    server: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    stubber = SimpleNamespace(enabled=True)
    monkeypatch.setitem(sys.modules, "moto.core.models", SimpleNamespace(botocore_stubber=stubber))
    port = LeanPort(endpoint_url=server.url)
    port.call(SEND)
    stubber.enabled = False
    port.call(SEND)
    agents = [{n.lower(): v for n, v in headers.items()}["user-agent"] for _, headers, _ in server.requests]
    assert ["Boto" in each for each in agents] == [True, False]
    port.close()


def test_nothing_of_the_sdk_is_loaded_for_plain_credentials(server: Script) -> None:
    import subprocess

    code = (
        "import sys\n"
        "from cloudq.aws.lean import LeanPort\n"
        "from cloudq.aws.port import Call\n"
        f"LeanPort(endpoint_url={server.url!r}).call(Call('sqs', 'SendMessage', {dict(SEND.params)!r}))\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('boto3', 'botocore', 'urllib3', 'asyncio')])"
    )
    env = {**os.environ, "HOME": "/nonexistent"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


# --- where, and who --------------------------------------------------------------------------------


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


@pytest.mark.parametrize(
    "region", ["eu-west-1", "us-east-1", "cn-north-1", "us-gov-west-1", "ap-southeast-7"]
)
@pytest.mark.parametrize("service", ["sqs", "dynamodb"])
def test_a_services_endpoint_is_the_one_botocore_uses(
    plain: pytest.MonkeyPatch, region: str, service: str
) -> None:
    import boto3

    theirs = boto3.Session(region_name=region).client(service).meta.endpoint_url
    assert Identity(region, None, None).endpoint(service) == Endpoint.parse(theirs)


def test_an_endpoint_of_the_environment_or_the_config_file_counts(
    plain: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain.setenv("AWS_ENDPOINT_URL_SQS", "http://127.0.0.1:1")
    assert Identity("eu-west-1", None, None).endpoint("sqs").port == 1
    assert Identity("eu-west-1", None, None).endpoint("dynamodb").host == "dynamodb.eu-west-1.amazonaws.com"
    plain.delenv("AWS_ENDPOINT_URL_SQS")
    config = tmp_path / "config"
    config.write_text("[profile work]\nregion = eu-west-3\nendpoint_url = http://127.0.0.1:2\n")
    plain.setenv("AWS_CONFIG_FILE", str(config))
    mine = Identity(None, None, "work")
    assert (mine.region, mine.endpoint("sqs").port) == ("eu-west-3", 2)


def test_a_profiles_credentials_go_before_the_environments(plain: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shared = tmp_path / "credentials"
    shared.write_text("[work]\naws_access_key_id = FILE\naws_secret_access_key = s\n")
    plain.setenv("AWS_SHARED_CREDENTIALS_FILE", str(shared))
    plain.setenv("AWS_ACCESS_KEY_ID", "ENV")
    plain.setenv("AWS_SECRET_ACCESS_KEY", "s")
    plain.setenv("AWS_SESSION_TOKEN", "t")
    assert Identity("eu-west-1", None, None).credentials()[::2] == ("ENV", "t")
    assert Identity("eu-west-1", None, "work").credentials()[::2] == ("FILE", None)


def test_temporary_credentials_are_renewed_while_we_work(plain: pytest.MonkeyPatch, tmp_path: Path) -> None:
    counter = tmp_path / "count"
    script = tmp_path / "give.py"
    script.write_text(
        "import datetime, json, pathlib\n"
        f"count = pathlib.Path({str(counter)!r})\n"
        "n = int(count.read_text()) + 1 if count.exists() else 1\n"
        "count.write_text(str(n))\n"
        "soon = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=1)\n"
        "print(json.dumps({'Version': 1, 'AccessKeyId': f'KEY{n}', 'SecretAccessKey': 's',\n"
        "    'SessionToken': 't', 'Expiration': soon.isoformat()}))\n"
    )
    config = tmp_path / "config"
    config.write_text(f"[default]\ncredential_process = {sys.executable} {script}\n")
    plain.setenv("AWS_CONFIG_FILE", str(config))
    mine = Identity("eu-west-1", None, None)
    first, second = mine.credentials(), mine.credentials()
    assert first.access_key != second.access_key  # they expire so soon that each call wants new ones
    assert mine.refreshes


@pytest.mark.parametrize(
    ("url", "word"),
    [("ftp://h", "http://host:port"), ("localhost:4566", "http://host:port"), ("http://u:p@h", "credentials"), ("http://h:x", "Port")],
)  # fmt: skip
def test_an_endpoint_that_is_none_is_refused(url: str, word: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=word):
        Endpoint.parse(url)


def test_the_host_is_signed_with_its_port_where_that_is_unusual() -> None:
    assert Endpoint.parse("https://sqs.eu-west-1.amazonaws.com").host_header == "sqs.eu-west-1.amazonaws.com"
    assert Endpoint.parse("http://127.0.0.1:4566/base").host_header == "127.0.0.1:4566"
    assert Endpoint.parse("http://127.0.0.1:4566/base").path == "/base"
    assert Endpoint.parse("http://[::1]:80").host_header == "[::1]"


def test_a_proxy_is_left_to_botocore(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = Endpoint.parse("https://sqs.eu-west-1.amazonaws.com")
    for name in ("https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert not needs_proxy(endpoint)
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    assert needs_proxy(endpoint)
    monkeypatch.setenv("no_proxy", "amazonaws.com")
    assert not needs_proxy(endpoint)


def test_tls_is_verified(plain: pytest.MonkeyPatch, tmp_path: Path) -> None:
    context = tls_context(Identity("eu-west-1", None, None))
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    plain.setenv("AWS_CA_BUNDLE", str(tmp_path / "missing.pem"))
    with pytest.raises(ImproperlyConfigured, match="AWS_CA_BUNDLE"):
        tls_context(Identity("eu-west-1", None, None))


async def test_a_server_is_believed_only_when_its_certificate_is(
    kind: type[Sync], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = self_signed(tmp_path, "localhost")
    with scripted() as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        port = server.server_address[1]
        stranger = kind(f"https://localhost:{port}")
        with pytest.raises(ServiceUnavailable, match="TLS with https://.* failed"):
            await stranger.call(SEND)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        known = kind(f"https://localhost:{port}")
        assert (await known.call(SEND))["MessageId"] == "m"
        await known.close()
        other_name = kind(f"https://127.0.0.1:{port}")
        with pytest.raises(ServiceUnavailable, match="TLS with https://.* failed"):
            await other_name.call(SEND)


def test_retries_have_a_budget_that_successes_earn_back() -> None:
    quota = RetryQuota(RETRY_COST)
    assert quota.allows()
    assert not quota.allows()
    quota.succeeded(1)
    assert not quota.allows()
    quota.succeeded(2)
    assert quota.allows()
    full = RetryQuota()
    full.succeeded(1)
    assert sum(full.allows() for _ in range(CAPACITY)) == CAPACITY // RETRY_COST


# --- servers -------------------------------------------------------------------------------------------


@contextmanager
def closing_server() -> Iterator[tuple[str, list[int]]]:
    """Answers one request a connection, promises to keep it, and closes it."""
    seen: list[int] = []
    body = json.dumps(GOOD[1]).encode()
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                with peer:
                    data = b""
                    while b'"x"}' not in data:
                        data += peer.recv(65_536)
                    seen.append(1)
                    peer.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", seen
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5.0)
