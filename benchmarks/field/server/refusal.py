"""An answer that says no."""

from __future__ import annotations

from typing import Any


class Refusal(Exception):
    """An AWS error: its type as JSON 1.0 names it, and what more its answer holds."""

    def __init__(self, kind: str, message: str, *, legacy: str = "", **more: Any) -> None:
        super().__init__(message)
        self.legacy = legacy
        self.body = {"__type": kind, "message": message, **more}
