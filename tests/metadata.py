"""A small EC2: instance metadata with real tokens, and the Auto Scaling API, on one local port."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

_XML = '<{0}Response xmlns="http://autoscaling.amazonaws.com/doc/2011-01-01/"><{0}Result>{1}</{0}Result></{0}Response>'
_INSTANCES = (
    "<AutoScalingInstances><member><InstanceId>{0}</InstanceId><AutoScalingGroupName>workers"
    "</AutoScalingGroupName></member></AutoScalingInstances>"
)
_HOOKS = (
    "<LifecycleHooks><member><LifecycleHookName>drain</LifecycleHookName><AutoScalingGroupName>workers"
    "</AutoScalingGroupName><LifecycleTransition>autoscaling:EC2_INSTANCE_TERMINATING</LifecycleTransition>"
    "</member><member><LifecycleHookName>warm</LifecycleHookName><AutoScalingGroupName>workers"
    "</AutoScalingGroupName><LifecycleTransition>autoscaling:EC2_INSTANCE_LAUNCHING</LifecycleTransition>"
    "</member></LifecycleHooks>"
)


class Metadata(ThreadingHTTPServer):
    """``values`` by path below ``/latest/meta-data/``; what is not there is a 404."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.values: dict[str, str] = {"instance-id": "i-0123", "placement/region": "eu-west-1"}
        self.tokens: set[str] = set()
        self.given = 0
        self.asked: list[str] = []
        #: Calls to the Auto Scaling API: name and parameters.
        self.calls: list[tuple[str, dict[str, str]]] = []
        #: Answer everything with this status.
        self.broken: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def forget_tokens(self) -> None:
        """As after six hours."""
        self.tokens.clear()


class _Handler(BaseHTTPRequestHandler):
    server: Metadata

    def do_PUT(self) -> None:
        ttl = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
        if self.server.broken or self.path != "/latest/api/token" or not 1 <= int(ttl or 0) <= 21600:
            self._answer(self.server.broken or 400, "")
            return
        self.server.given += 1
        token = f"token-{self.server.given}"
        self.server.tokens.add(token)
        self._answer(200, token)

    def do_GET(self) -> None:
        server = self.server
        path = self.path.removeprefix("/latest/meta-data/")
        server.asked.append(path)
        if server.broken:
            self._answer(server.broken, "")
        elif self.headers.get("X-aws-ec2-metadata-token") not in server.tokens:
            self._answer(401, "")
        elif path in server.values:
            self._answer(200, server.values[path])
        else:
            self._answer(404, "not found")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        params = {name: values[0] for name, values in parse_qs(body).items()}
        action = params.pop("Action")
        params.pop("Version", None)
        self.server.calls.append((action, params))
        results = {
            "DescribeAutoScalingInstances": _INSTANCES.format(params.get("InstanceIds.member.1")),
            "DescribeLifecycleHooks": _HOOKS,
        }
        self._answer(200, _XML.format(action, results.get(action, "")))

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def metadata() -> Iterator[Metadata]:
    """A running one."""
    server = Metadata()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()
