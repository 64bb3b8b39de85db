"""Periodic tasks as people look at them: state, next run, last one."""

from __future__ import annotations

from datetime import tzinfo
from typing import Any

from cloudq.app import CloudQ
from cloudq.beat.book import Book, Listed
from cloudq.beat.marks import Mark, Marks
from cloudq.deploy.expressible import refusal
from cloudq.errors import CloudQError
from cloudq.moments import zone_of


def rows(app: CloudQ) -> list[dict[str, Any]]:
    """Every entry: plain values, times in seconds since the epoch. Raises OperationalError."""
    listed = Book(app).read()
    marks = Marks(app)
    marks.load()
    now, zone = app.clock.time(), zone_of(app.conf)
    return [_row(app, each, marks.get(name), now, zone) for name, each in listed.items()]


def _row(app: CloudQ, each: Listed, mark: Mark | None, now: float, zone: tzinfo) -> dict[str, Any]:
    entry = each.entry
    state, following = _state(app, each), None
    if not each.paused:
        try:
            following = entry.next_due(now, zone)
        except (
            CloudQError
        ) as error:  # its extra is not installed here, say: the others are shown all the same
            state = f"broken: {error}"
    return {
        "name": entry.name,
        "task": entry.task,
        "schedule": str(entry.schedule),
        "state": state,
        "next": following,
        "last_sent": mark.sent if mark else None,
        "from": "store" if each.stored else "code",
        "catchup": entry.catchup,
        "args": list(entry.args),
        "kwargs": dict(entry.kwargs),
        "options": dict(entry.options),
    }


def _state(app: CloudQ, each: Listed) -> str:
    if each.fault:
        return f"broken: {each.fault}"
    if each.paused:
        return "paused"
    return "EventBridge" if app.conf.schedule_sync and refusal(app, each.entry) is None else "on"
