"""``/healthz`` and ``/readyz``: how the worker is, for load balancers, Kubernetes, ECS and people."""

from __future__ import annotations

import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from cloudq.errors import ImproperlyConfigured
from cloudq.worker.condition import Condition

logger = logging.getLogger("cloudq.worker")

#: Seconds that a client may take over its request.
TIMEOUT: Final = 5.0


class HealthServer:
    """Serves one worker's condition. Port 0 takes any free port: see ``port``."""

    def __init__(self, condition: Condition, host: str, port: int) -> None:
        """Raises ImproperlyConfigured when the address cannot be had."""
        try:
            self._server = _Server((host, port), condition)
        except OSError as error:
            raise ImproperlyConfigured(
                f"health cannot be served on {host}:{port}: {error.strerror or error}; choose another "
                "worker_health_port or worker_health_host"
            ) from error
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="cloudq-health", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()
        host, port = self._server.server_address[:2]
        logger.info("health on http://%s:%d/healthz and /readyz", _text(host), port)

    def close(self) -> None:
        """Answer no more."""
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], condition: Condition) -> None:
        if ":" in address[0]:
            import socket

            self.address_family = socket.AF_INET6
        self.condition = condition
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = TIMEOUT
    server_version = "cloudq"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer 200 or 503, 404 for other paths."""
        condition = self.server.condition
        path = self.path.partition("?")[0].rstrip("/")
        if path == "/healthz":
            self._answer(200 if condition.well() else 503, condition.report())
        elif path == "/readyz":
            self._answer(200 if condition.ready() else 503, condition.report())
        else:
            self._answer(404, {"error": "ask /healthz or /readyz"})

    do_HEAD = do_GET  # noqa: N815  the name http.server looks for

    def _answer(self, status: int, found: dict[str, Any]) -> None:
        body = json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Asked every few seconds: only of interest to who debugs it."""
        logger.debug("health: " + format, *args)


def _text(host: Any) -> str:
    text = host.decode() if isinstance(host, bytes) else str(host)
    return f"[{text}]" if ":" in text else text
