"""What a schedule is: a rule that says which moments are slots.

A slot is a moment (seconds since the epoch) at which a periodic task is to be sent. It depends on
nothing but the rule and the time zone, never on when a process was started: two beats, or a beat
and its successor, mean the same slots and can tell whether one was sent already.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, tzinfo
from typing import Any, Protocol

from cloudq.errors import ScheduleError


class Schedule(Protocol):
    """``schedule``, ``crontab`` and ``solar`` are such rules."""

    def next_after(self, moment: float, zone: tzinfo) -> float | None:
        """The first slot after ``moment`` (seconds since the epoch), or None when there is none any more.

        ``zone`` counts unless the schedule has a time zone of its own.
        """
        ...

    def plain(self) -> Mapping[str, Any]:
        """The rule as JSON data, for ``as_schedule``."""
        ...


def between(schedule: Schedule, after: float, until: float, zone: tzinfo) -> Iterator[float]:
    """Every slot with ``after < slot <= until``, in order."""
    slot = schedule.next_after(after, zone)
    while slot is not None and slot <= until:
        yield slot
        slot = schedule.next_after(slot, zone)


def zone_named(zone: tzinfo | str | None) -> tzinfo | None:
    """A time zone by its name (``Europe/Paris``). Raises ScheduleError for an unknown one."""
    if zone is None or isinstance(zone, tzinfo):
        return zone
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones  # late: reads files

    if not isinstance(zone, str):
        raise ScheduleError(f"a time zone is a name like Europe/Paris or a tzinfo, got {zone!r}")
    try:
        return ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        import difflib

        near = difflib.get_close_matches(zone, available_timezones(), 1)
        hint = f"; did you mean {near[0]}?" if near else "; example: Europe/Paris"
        raise ScheduleError(f"time zone {zone!r} is not known{hint}") from None


def zone_text(zone: tzinfo) -> str:
    """A zone's name, to be stored. Raises ScheduleError for one that the tz database does not name."""
    if zone is UTC:
        return "UTC"
    name = getattr(zone, "key", None)
    if not isinstance(name, str):
        raise ScheduleError(f"time zone {zone!r} has no name to be stored under: use zoneinfo.ZoneInfo")
    return name
