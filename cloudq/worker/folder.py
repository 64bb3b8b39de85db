"""A folder of the worker's own, for what all of its processes share; gone when it ends."""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
from typing import Final

_PREFIX: Final = "cloudq-worker-"


def make() -> tempfile.TemporaryDirectory[str]:
    """A new one. What workers of this machine left that were killed is removed.

    The machine's name is part of it: where containers share a folder, others' processes are not to be seen.
    """
    mine = f"{_PREFIX}{re.sub('[^A-Za-z0-9.]', '_', socket.gethostname())}-"
    _sweep(tempfile.gettempdir(), mine)
    return tempfile.TemporaryDirectory(prefix=f"{mine}{os.getpid()}-", ignore_cleanup_errors=True)


def _sweep(where: str, prefix: str) -> None:
    for name in os.listdir(where):
        found = re.fullmatch(re.escape(prefix) + r"(\d+)-\w+", name)
        if found and not _lives(int(found[1])):
            shutil.rmtree(os.path.join(where, name), ignore_errors=True)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True
