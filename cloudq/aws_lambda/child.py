"""A function's process in a local run: ``python -m cloudq.aws_lambda.child FD HANDLER``.

Lines go to stdout as in Lambda; events and answers go over the connection FD.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from cloudq.aws_lambda.handler import make_handler

#: Stands for the handler of the app in CLOUDQ_APP.
APP = "-"


class LocalContext:
    """What a handler may ask Lambda's context for."""

    memory_limit_in_mb = os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "1769")
    function_name = "local"
    function_version = "$LATEST"
    invoked_function_arn = "arn:aws:lambda:us-east-1:123456789012:function:local"

    def __init__(self, request_id: str, deadline: float) -> None:
        self.aws_request_id = request_id
        self._deadline = deadline

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until this process is killed."""
        return max(0, int(1000 * (self._deadline - time.time())))


def load(name: str) -> Callable[[Any, Any], Any]:
    """``package.module.function``, as Lambda reads it; raises ImportError and AttributeError."""
    if name == APP:
        return make_handler()
    module, _, attribute = name.replace("/", ".").rpartition(".")
    found: Callable[[Any, Any], Any] = getattr(importlib.import_module(module), attribute)
    return found


def main(descriptor: int, name: str) -> int:
    """Serve until the parent hangs up."""
    line = Connection(descriptor)
    sys.path.insert(0, os.getcwd())
    try:
        handler = load(name)
    except Exception as error:  # noqa: BLE001  told to the parent
        line.send_bytes(json.dumps({"failed": _words(error)}).encode())
        return 1
    line.send_bytes(b'{"ready": true}')
    while True:
        try:
            asked = json.loads(line.recv_bytes())
        except EOFError:
            return 0
        try:
            answer = {"answer": handler(asked["event"], LocalContext(asked["id"], asked["deadline"]))}
            text = json.dumps(answer)
        except Exception as error:  # noqa: BLE001  told to the parent
            text = json.dumps({"failed": _words(error)})
        line.send_bytes(text.encode())


def _words(error: Exception) -> dict[str, str]:
    return {
        "type": type(error).__name__,
        "message": str(error),
        "trace": "".join(traceback.format_exception(error)),
    }


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2]))
