"""How pages say things: times, ages, numbers, states."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final

from cloudq import states
from cloudq.dashboard.charts import short

_KINDS: Final = {
    states.SUCCESS: "good",
    states.FAILURE: "bad",
    states.REJECTED: "bad",
    states.REVOKED: "off",
    states.IGNORED: "off",
    states.RETRY: "warn",
    states.STARTED: "busy",
}


def moment(seconds: float | None) -> str:
    """A time, UTC."""
    if seconds is None:
        return ""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):  # a document of another program may hold any number
        return f"{seconds:g} s"


def lasted(seconds: float | None) -> str:
    """A length of time: 250 ms, 4.2 s, 12 min, 3 h, 2 d."""
    if seconds is None:
        return ""
    if 0 < seconds < 0.001:
        return "<1 ms"
    if seconds < 1:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    for limit, divisor, unit in ((60, 1, "s"), (3600, 60, "min"), (86_400, 3600, "h")):
        if seconds < limit:
            value = seconds / divisor
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{seconds / 86_400:.1f} d"


def ago(seconds: float | None, now: float) -> str:
    """How long before ``now``; ``in 3 min`` for what is to come."""
    if seconds is None:
        return ""
    away = now - seconds
    if abs(away) < 1:
        return "now"
    return f"{lasted(away)} ago" if away > 0 else f"in {lasted(-away)}"


def number(value: float | None) -> str:
    """A number, or a dash where nothing is known."""
    return "–" if value is None else short(value)


def kind(state: str) -> str:
    """The class of the style sheet for a state."""
    return _KINDS.get(state, "idle")


def brief(text: Any, width: int = 90) -> str:
    """One line of at most ``width`` characters."""
    line = " ".join(str(text or "").split())
    return line if len(line) <= width else line[: width - 1] + "…"


def pretty(value: Any) -> str:
    """A value as indented JSON, or as its repr where it is none."""
    try:
        return json.dumps(value, indent=2, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return repr(value)


FILTERS: Final = {
    "moment": moment,
    "lasted": lasted,
    "ago": ago,
    "number": number,
    "kind": kind,
    "brief": brief,
    "pretty": pretty,
}
