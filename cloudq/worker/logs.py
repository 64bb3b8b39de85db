"""Logging of a worker and its children."""

from __future__ import annotations

import logging
import sys

FORMAT = "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s"


def set_up(level: int) -> None:
    """One handler on the root logger, to stderr. SDK loggers stay quiet unless level is DEBUG."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(FORMAT))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    if level > logging.DEBUG:
        for name in ("botocore", "boto3", "urllib3", "asyncio", "watchfiles"):
            logging.getLogger(name).setLevel(logging.WARNING)
