"""Google's and Azure's clients never take an answer whose head broke off for an object without a byte."""

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from cloudq.backends import azure, gcs
from cloudq.backends.azure import AzureContainer
from cloudq.backends.blob import Blob, Bucket, Get, Put, Remove
from cloudq.backends.gcs import GcsBucket
from cloudq.errors import ServiceUnavailable

WHOLE = {
    "gcs": b"HTTP/1.1 200 OK\r\nx-goog-generation: 5\r\nContent-Length: 4\r\n\r\ndata",
    "azure": b'HTTP/1.1 206 Partial Content\r\nETag: "5"\r\nLast-Modified: Sat, 21 Nov 2026 12:00:00 GMT\r\n'
    b"Content-Range: bytes 0-3/4\r\nContent-Length: 4\r\n\r\ndata",
}
CUTS = (
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Ty",
    b'HTTP/1.1 206 Partial Content\r\nx-goog-generation: 5\r\nETag: "5"\r\nContent-Len',
    b"HTTP/1.1 404 Not Found\r\nx-ms-err",
)
BODIES = (
    b"HTTP/1.1 200 OK\r\nContent-Length:",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chun",
    b"HTTP/1.1 503 Slow\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n<Error",
    b"HTTP/1.1 503 Slow\r\nContent-Length: 40\r\n\r\n<Error",
    b"HTTP/1.1 503 Slow\r\nContent-Length: 0\r\n\r\n",
)
#: Answers that break off in the object. Google's client asks for what is missing, Azure's for all.
PARTS = {
    "gcs": (
        b"HTTP/1.1 200 OK\r\nx-goog-generation: 5\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nda\r\n",
        b"HTTP/1.1 200 OK\r\nx-goog-generation: 5\r\nContent-Length: 4\r\n\r\nda",
    ),
    "azure": (WHOLE["azure"][:-2],),
}
REST = b"HTTP/1.1 206 Partial Content\r\nx-goog-generation: 5\r\nContent-Range: bytes 2-3/4\r\nContent-Length: 2\r\n\r\nta"


class Server:
    """Gives one answer a connection: those of a list, and the last of them from then on."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.answers = [b""]
        self.calls = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # it is closed at the end
            while True:
                line, _ = self._listener.accept()
                with line, suppress(OSError):
                    self._answer(line)

    def _answer(self, line: socket.socket) -> None:
        with line.makefile("rb") as read:
            asked, length, rest = read.readline(), 0, False
            while (each := read.readline().strip().lower()) != b"":
                if each.startswith(b"content-length:"):
                    length = int(each.partition(b":")[2])
                rest = rest or each == b"range: bytes=2-"
            read.read(length)
        if b"/b/things?" in asked:  # Google's client looks at the bucket beside its work
            line.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        self.calls += 1
        line.sendall(REST if rest else self.answers[min(self.calls, len(self.answers)) - 1])

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture(params=["gcs", "azure"])
def bucket(
    request: pytest.FixtureRequest, server: Server, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bucket]:
    """A bucket on that server, whose clients are not patient."""
    made: Bucket
    if request.param == "gcs":
        monkeypatch.setattr(gcs, "RETRY_WAITS", (0.02, 0.05))
        made = GcsBucket("things", None, f"http://127.0.0.1:{server.port}")
    else:
        monkeypatch.setattr(azure, "RETRIES", 2)
        monkeypatch.setattr("azure.storage.blob.ExponentialRetry.get_backoff_time", lambda *_: 0.02)
        place = f"BlobEndpoint=http://127.0.0.1:{server.port}/acc;"
        text = f"DefaultEndpointsProtocol=http;AccountName=acc;AccountKey=a2V5;{place}"
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
        made = AzureContainer("things")
    yield made
    made.close()


@pytest.mark.parametrize("cut", [*CUTS, *BODIES])
def test_an_object_is_asked_for_again(
    bucket: Bucket, server: Server, cut: bytes, request: pytest.FixtureRequest
) -> None:
    whole = WHOLE["gcs" if isinstance(bucket, GcsBucket) else "azure"]
    server.answers = [cut, whole]

    found = bucket.perform(Get("x"))

    assert isinstance(found, Blob)
    assert found.data == b"data"
    assert "5" in found.tag
    assert server.calls == 2


@pytest.mark.parametrize("which", [0, 1])
def test_an_object_that_breaks_off_is_made_whole(bucket: Bucket, server: Server, which: int) -> None:
    service = "gcs" if isinstance(bucket, GcsBucket) else "azure"
    parts = PARTS[service]
    server.answers = [parts[which % len(parts)], WHOLE[service]]

    found = bucket.perform(Get("x"))

    assert isinstance(found, Blob)
    assert found.data == b"data"
    assert server.calls == 2


@pytest.mark.parametrize("cut", CUTS)
def test_what_never_comes_whole_is_the_service_s_trouble(
    bucket: Bucket, server: Server, cut: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gcs, "RETRY_FOR", 0.3)
    server.answers = [cut]

    for request in (Get("x"), Get("x", 10), Put("x", b"data", None), Remove("x"), Remove("x", "5")):
        with pytest.raises(ServiceUnavailable, match="broke off"):
            bucket.perform(request)
    with pytest.raises(ServiceUnavailable, match="broke off"):
        list(bucket.list("x"))
