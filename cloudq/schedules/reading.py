"""What a schedule may be written as: an object, seconds, a timedelta, cron text, JSON data."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from cloudq.errors import ScheduleError
from cloudq.schedules.base import Schedule
from cloudq.schedules.crontab import cron, crontab
from cloudq.schedules.interval import schedule
from cloudq.schedules.solar import solar


def as_schedule(value: Any) -> Schedule:
    """``schedule``, ``crontab`` and ``solar`` as they are; 30.0, timedelta, "*/5 * * * *", ``plain()`` data.

    Raises ScheduleError.
    """
    if isinstance(value, schedule | crontab | solar):
        return value
    if isinstance(value, str):
        return cron(value)
    if isinstance(value, timedelta) or (isinstance(value, int | float) and not isinstance(value, bool)):
        return schedule(value)
    if isinstance(value, Mapping):
        return _from_plain(dict(value))
    if callable(getattr(value, "next_after", None)) and callable(getattr(value, "plain", None)):
        found: Schedule = value
        return found
    raise ScheduleError(
        f"a schedule is crontab(...), schedule(...), solar(...), seconds, a timedelta or cron text, got {value!r}"
    )


def _from_plain(data: dict[str, Any]) -> Schedule:
    kinds = [each for each in ("every", "cron", "crontab", "solar") if each in data]
    if len(kinds) != 1:
        raise ScheduleError(
            f'a schedule in JSON has one of "every", "cron", "crontab" and "solar", got {data!r}'
        )
    [kind] = kinds
    value = data.pop(kind)
    more = {"every": ("anchor",), "cron": ("tz",), "crontab": ("tz",), "solar": ()}[kind]
    for name in data:
        if name not in more:
            raise ScheduleError(
                f"a schedule with {kind!r} has no {name!r} ({', '.join(more) or 'nothing else'})"
            )
    try:
        if kind == "every":
            anchor = data.get("anchor")
            return schedule(value, None if anchor is None else datetime.fromisoformat(anchor))
        if kind == "cron":
            return cron(value, tz=data.get("tz"))
        if kind == "crontab":
            return crontab(**value, tz=data.get("tz"))
        return solar(**value)
    except (TypeError, ValueError) as error:
        raise ScheduleError(f"a schedule with {kind!r}: {error}") from None
