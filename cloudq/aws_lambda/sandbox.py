"""A function in a process of its own: started when first needed, killed when its time is up, replaced when it dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, Final

#: Seconds that a function may take to load (Lambda's init phase has 10).
INIT: Final = 30.0


class FunctionFailed(Exception):
    """There is no answer: the handler raised, or its process died or was killed. ``kind`` is ``error``,
    ``crash`` or ``timeout``."""

    def __init__(self, kind: str, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.trace = trace


class Sandbox:
    """One process at a time. Not for several threads at once."""

    def __init__(self, handler: str, env: Mapping[str, str], timeout: float) -> None:
        """``handler`` is ``module.function`` or ``-`` for that of CLOUDQ_APP; ``timeout`` is seconds."""
        self._handler = handler
        self._env = {**os.environ, **env, "PYTHONUNBUFFERED": "1"}
        self._timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._line: Connection | None = None
        #: Processes started so far: 1 is the cold start.
        self.starts = 0

    def invoke(self, event: Any) -> Any:
        """The handler's answer. Raises FunctionFailed."""
        line = self._started()
        asked = {"id": str(uuid.uuid4()), "deadline": time.time() + self._timeout, "event": event}
        try:
            line.send_bytes(json.dumps(asked).encode())
        except OSError:
            raise self._dead() from None
        return self._hear(line, self._timeout, f"the function's timeout of {self._timeout:g} s")["answer"]

    def close(self) -> None:
        """End the process."""
        if self._line is not None:
            self._line.close()
        if self._process is not None:
            try:
                self._process.wait(2.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = self._line = None

    # --- parts --------------------------------------------------------------------------------

    def _started(self) -> Connection:
        if self._line is not None and self._process is not None and self._process.poll() is None:
            return self._line
        self.close()
        self._line, theirs = Pipe()
        with theirs:
            descriptor = theirs.fileno()
            command = [sys.executable, "-m", "cloudq.aws_lambda.child", str(descriptor), self._handler]
            # in a group of its own: Ctrl-C is for us, who let it finish
            self._process = subprocess.Popen(  # noqa: S603  our own words
                command, env=self._env, pass_fds=(descriptor,), start_new_session=True
            )
        self.starts += 1
        self._hear(self._line, INIT, f"the init phase, {INIT:g} s")
        return self._line

    def _hear(self, line: Connection, timeout: float, what: str) -> dict[str, Any]:
        try:
            if not line.poll(timeout):
                self._kill()
                raise FunctionFailed("timeout", f"the function was killed at the end of {what}")
            heard: dict[str, Any] = json.loads(line.recv_bytes())
        except (EOFError, OSError):
            raise self._dead() from None
        if "failed" in heard:
            words = heard["failed"]
            raise FunctionFailed("error", f"{words['type']}: {words['message']}", words["trace"])
        return heard

    def _dead(self) -> FunctionFailed:
        assert self._process is not None
        try:
            self._process.wait(2.0)
        except subprocess.TimeoutExpired:
            self._kill()
        code = self._process.returncode
        how = f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return FunctionFailed("crash", f"the function's process ended: {how}")

    def _kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
