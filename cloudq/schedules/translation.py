"""Schedules as EventBridge Scheduler writes them: exactly, or refused with the reason.

What AWS says of its side (EventBridge Scheduler user guide, "Schedule types"): a rate counts from
StartDate; cron has six fields, with Sunday as day 1 and one of the two day fields ``?``; a time that
the clocks skip is not run, a time that comes twice is run once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Final

from cloudq.errors import ScheduleError
from cloudq.schedules import localtime
from cloudq.schedules.base import Schedule, zone_text
from cloudq.schedules.crontab import crontab
from cloudq.schedules.fields import DAY_OF_MONTH, HOUR, MINUTE, MONTH_OF_YEAR, Kind
from cloudq.schedules.interval import schedule

#: Seconds in EventBridge's units of rate, the largest first.
_UNITS: Final = ((86_400, "day"), (3_600, "hour"), (60, "minute"))
#: Longest expression (EventBridge Scheduler API reference, CreateSchedule).
_LONGEST: Final = 256
_DAY_NAMES: Final = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
#: Days ahead in which changes of the clocks are looked at: the rules of a zone repeat each year.
_HORIZON: Final = 3 * 366
_HOUR: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Expression:
    """``ScheduleExpression`` and its time zone; ``starts`` (epoch seconds) is a rate's first slot."""

    text: str
    timezone: str = "UTC"
    starts: float | None = None
    #: Seconds between the slots of a rate: a start that is a whole number of these away is the same one.
    every: float | None = None


def translate(rule: Schedule, zone: tzinfo, now: float) -> Expression:
    """The same slots in EventBridge's words. Raises ScheduleError saying why there are none."""
    if isinstance(rule, schedule):
        return _rate(rule, now)
    if isinstance(rule, crontab):
        return _cron(rule, rule.zone or zone, now)
    raise ScheduleError(f"EventBridge Scheduler has nothing like {type(rule).__name__} ({rule})")


def _rate(rule: schedule, now: float) -> Expression:
    seconds = rule.run_every.total_seconds()
    if seconds % 60:
        raise ScheduleError(f"EventBridge Scheduler knows whole minutes only, not {rule}")
    size, unit = next(each for each in _UNITS if seconds % each[0] == 0)
    count = int(seconds // size)
    starts = rule.next_after(now, UTC)
    return Expression(f"rate({count} {unit}{'' if count == 1 else 's'})", "UTC", starts, seconds)


def _cron(rule: crontab, zone: tzinfo, now: float) -> Expression:
    minute, hour, _, _, month = rule.fields
    day_text, weekday_text = _days(rule)
    parts = (
        _numbers(MINUTE, minute.values),
        _numbers(HOUR, hour.values),
        day_text,
        _numbers(MONTH_OF_YEAR, month.values),
        weekday_text,
        "*",
    )
    text = f"cron({' '.join(parts)})"
    if len(text) > _LONGEST:
        raise ScheduleError(f"{rule} is longer than the {_LONGEST} characters of an expression: {text}")
    if _is_fixed_offset(zone, now):
        return Expression(text, _zone_name(zone))
    if _every_hour(rule) and _whole_hours(zone, now):
        return Expression(text, "UTC")  # the same minutes of every hour, whatever the clocks say
    _check_changes(rule, zone, now)
    return Expression(text, _zone_name(zone))


def _zone_name(zone: tzinfo) -> str:
    try:
        return zone_text(zone)
    except ScheduleError as error:
        raise ScheduleError(f"EventBridge Scheduler wants the name of a time zone: {error}") from None


# --- fields ---------------------------------------------------------------------------------------


def _days(rule: crontab) -> tuple[str, str]:
    """The two day fields, one of which is ``?``."""
    weekdays, days = rule.day_of_week, rule.day_of_month
    all_weekdays, all_days = len(weekdays) == 7, len(days) == 31
    if all_weekdays or all_days:
        if rule.either_day:
            return "*", "?"  # one of them fits every day
        if all_weekdays:
            return ("*" if all_days else _numbers(DAY_OF_MONTH, days)), "?"
        return "?", _weekdays(weekdays)
    if rule.either_day:
        raise ScheduleError(
            f"{rule}: in cron's text either day may fit, EventBridge Scheduler takes one of the two only: "
            "make two periodic tasks of it"
        )
    if (nth := _nth(weekdays, days)) is not None:
        return "?", nth
    raise ScheduleError(
        f"{rule}: EventBridge Scheduler takes a day of the month or a day of the week, not both"
    )


def _nth(weekdays: Iterable[int], days: Iterable[int]) -> str | None:
    """``FRI#2`` for the second Friday: one weekday, and the seven days of the month that it falls on."""
    of_week, of_month = sorted(weekdays), sorted(days)
    for n in range(1, 6):
        if len(of_week) == 1 and of_month == list(range(7 * n - 6, min(7 * n, 31) + 1)):
            return f"{_DAY_NAMES[of_week[0]]}#{n}"
    return None


def _weekdays(values: Iterable[int]) -> str:
    return ",".join(
        _DAY_NAMES[first] if first == last else f"{_DAY_NAMES[first]}-{_DAY_NAMES[last]}"
        for first, last in _runs(sorted(values))
    )


def _numbers(kind: Kind, allowed: Iterable[int]) -> str:
    values = sorted(allowed)
    if len(values) == kind.last - kind.first + 1:
        return "*"
    if len(values) > 2:
        step = values[1] - values[0]
        if step > 1 and values == list(range(values[0], kind.last + 1, step)):
            return f"{values[0]}/{step}"
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in _runs(values))


def _runs(values: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and last of each run of neighbours."""
    start = 0
    for index in range(1, len(values) + 1):
        if index == len(values) or values[index] != values[index - 1] + 1:
            yield values[start], values[index - 1]
            start = index


# --- days when clocks change ----------------------------------------------------------------------


def _offsets(zone: tzinfo, now: float) -> Iterator[tuple[datetime, timedelta]]:
    start = datetime.fromtimestamp(now, UTC).replace(minute=0, second=0, microsecond=0)
    for day in range(_HORIZON):
        moment = start + timedelta(days=day)
        yield moment, moment.astimezone(zone).utcoffset() or timedelta()


def _is_fixed_offset(zone: tzinfo, now: float) -> bool:
    return len({offset for _, offset in _offsets(zone, now)}) == 1


def _whole_hours(zone: tzinfo, now: float) -> bool:
    return all(offset % _HOUR == timedelta() for _, offset in _offsets(zone, now))


def _every_hour(rule: crontab) -> bool:
    full = (
        len(rule.hour) == 24,
        len(rule.day_of_week) == 7,
        len(rule.day_of_month) == 31,
        len(rule.month_of_year) == 12,
    )
    return all(full)


def _check_changes(rule: crontab, zone: tzinfo, now: float) -> None:
    """Raise ScheduleError when a slot falls into an hour that is skipped or comes twice.

    There cloudq and AWS differ: a skipped time is run later or left out, a double one once or twice.
    """
    previous: timedelta | None = None
    for moment, offset in _offsets(zone, now):
        if previous is not None and offset != previous:
            local = moment.astimezone(zone).date()
            for day in (local - timedelta(days=1), local, local + timedelta(days=1)):
                _check_day(rule, zone, day)
        previous = offset


def _check_day(rule: crontab, zone: tzinfo, day: date) -> None:
    for local in rule.local_times(day):
        if not localtime.exists(local, zone):
            raise ScheduleError(
                f"{rule} has a slot at {local:%H:%M} on {day}, a time that {zone} skips: EventBridge Scheduler would "
                f"{'leave that day out' if rule.fixed else 'not do as cloudq does'}; choose another time, or UTC"
            )
        if not rule.fixed and localtime.is_ambiguous(local, zone):
            raise ScheduleError(
                f"{rule} has a slot at {local:%H:%M} on {day}, a time that comes twice in {zone}: EventBridge "
                "Scheduler would run it once; choose other times, or UTC"
            )
