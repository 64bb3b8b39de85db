"""A small HTTP server that answers as told, for the AWS ports."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

GOOD = (200, {"MessageId": "m", "MD5OfMessageBody": "9dd4e461268c8034f5c8564e155c67a6"}, {})


class Script(ThreadingHTTPServer):
    """Answers each POST with the next of ``answers``: (status, body, headers); the last one stays."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[tuple[int, Any, dict[str, str]]] = [GOOD]
        #: Connections that were opened.
        self.connections = 0
        #: The Date header, when not the present time.
        self.date: str | None = None
        self.requests: list[tuple[str, dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Script

    def setup(self) -> None:
        self.server.connections += 1
        super().setup()

    def date_time_string(self, timestamp: float | None = None) -> str:
        return self.server.date or super().date_time_string(timestamp)

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append((self.path, dict(self.headers), body))
        answers = self.server.answers
        status, answer, headers = answers[0] if len(answers) == 1 else answers.pop(0)
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", headers.get("Content-Length", str(len(data))))
        for name, value in headers.items():
            if name != "Content-Length":
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
        if "Content-Length" in headers:
            self.close_connection = True

    do_GET = do_POST

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def scripted() -> Iterator[Script]:
    """A running one."""
    script = Script()
    thread = threading.Thread(target=script.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield script
    script.shutdown()
    script.server_close()
    thread.join()


def failure(code: str, status: int = 400, query: str | None = None) -> tuple[int, Any, dict[str, str]]:
    headers = {"x-amzn-query-error": f"{query};Sender"} if query else {}
    return status, {"__type": f"com.amazonaws.sqs#{code}", "message": "because"}, headers


def self_signed(folder: Path, name: str) -> Path:
    """A certificate for ``name`` and its key, in one file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = folder / "server.pem"
    pem = serialization.Encoding.PEM
    form = serialization.PrivateFormat.PKCS8
    file.write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()) + made.public_bytes(pem))
    return file
