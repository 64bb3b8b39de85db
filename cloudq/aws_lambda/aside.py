"""Calls that the answer must not wait for: a network call cannot be cut short, but it can be left behind."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

logger = logging.getLogger("cloudq.lambda")
T = TypeVar("T")


def aside(what: str, work: Callable[[], T], seconds: float) -> T | None:
    """``work()``'s value, or None: it raised (logged), or is not through after ``seconds`` and goes on alone."""
    if seconds <= 0:
        return None
    found: list[T] = []

    def run() -> None:
        try:
            found.append(work())
        except Exception:
            logger.exception("%s failed", what)

    helper = threading.Thread(target=run, name="cloudq-aside", daemon=True)
    try:
        helper.start()
    except RuntimeError as error:  # no more threads in this sandbox
        logger.warning("%s: %s", what, error)
        return None
    helper.join(seconds)
    if helper.is_alive():
        logger.warning("%s took longer than %.1f s: not waited for", what, seconds)
    return found[0] if found else None
