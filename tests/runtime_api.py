"""A Lambda Runtime API for tests: feeds events to the real runtime client (awslambdaric) in a process.

Protocol: "Using the Lambda runtime API" in the Lambda Developer Guide. Like Lambda it kills a process that is not
done by its deadline, and starts another one for the next event.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

#: Longest start of a process, seconds: on a busy machine it takes its time.
INIT = 60.0


class Killed(Exception):
    """The process was killed at its deadline, or died."""


class FunctionError(Exception):
    """The handler raised; Lambda would give the whole batch back."""


class Runtime:
    """One sandbox. ``invoke`` answers as Lambda does."""

    def __init__(
        self, handler: str, folder: Path, env: Mapping[str, str], python: str = sys.executable
    ) -> None:
        self._handler = handler
        self._folder = folder
        self._env = dict(env)
        self._python = python
        self._process: subprocess.Popen[bytes] | None = None
        self._events: queue.Queue[tuple[str, bytes, float]] = queue.Queue()
        self._answers: queue.Queue[tuple[str, str, bytes]] = queue.Queue()
        self._asked = threading.Event()
        self.starts = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._routes())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def invoke(self, event: Any, seconds: float) -> Any:
        """The handler's answer. Raises Killed or FunctionError."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        assert self._process is not None
        self._wait_for_init()
        request = str(uuid.uuid4())
        deadline = time.time() + seconds
        self._events.put((request, json.dumps(event).encode(), deadline))
        while True:
            try:
                kind, found, body = self._answers.get(timeout=0.02)
            except queue.Empty:
                if time.time() >= deadline or self._process.poll() is not None:
                    self._process.kill()
                    self._process.wait()
                    self._events = queue.Queue()
                    raise Killed(f"exit code {self._process.returncode}") from None
                continue
            if kind == "init":
                raise FunctionError(body.decode())
            if found == request:
                if kind == "error":
                    raise FunctionError(body.decode())
                return json.loads(body)

    def _wait_for_init(self) -> None:
        """A new process asks for its first event when it is through: its start is no part of the function's time."""
        assert self._process is not None
        until = time.monotonic() + INIT
        while self._answers.empty() and self._process.poll() is None and time.monotonic() < until:
            if self._asked.wait(0.02):
                return

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._server.shutdown()
        self._server.server_close()

    def _start(self) -> None:
        self.starts += 1
        self._asked.clear()
        host, port = self._server.server_address[:2]
        env = {
            **self._env,
            "AWS_LAMBDA_RUNTIME_API": f"{host!s}:{port}",
            "AWS_LAMBDA_FUNCTION_NAME": "f",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "3538",
            "LAMBDA_TASK_ROOT": str(self._folder),
        }
        command = [self._python, "-m", "awslambdaric", self._handler]
        self._process = subprocess.Popen(command, cwd=self._folder, env=env)

    def _routes(self) -> type[BaseHTTPRequestHandler]:
        runtime = self

        class Routes(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else 44 ms per call
            wbufsize = -1

            def do_GET(self) -> None:
                runtime._asked.set()
                request, body, deadline = runtime._events.get()
                self.send_response(200)
                self.send_header("Lambda-Runtime-Aws-Request-Id", request)
                self.send_header("Lambda-Runtime-Deadline-Ms", str(int(1000 * deadline)))
                self.send_header(
                    "Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:us-east-1:1:function:f"
                )
                self.send_header(
                    "Lambda-Runtime-Trace-Id", "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Sampled=0"
                )
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                *_, request, kind = self.path.split("/")
                kind = "init" if "/init/" in self.path else kind
                runtime._answers.put((kind, request, body))
                self.send_response(202)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        return Routes
