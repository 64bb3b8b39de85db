"""``crontab(minute=0, hour="9-17", day_of_week="mon-fri")``, and cron's own text form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date, datetime, timedelta, tzinfo
from typing import Any, Final, TypeAlias

from cloudq.errors import ScheduleError
from cloudq.schedules import localtime
from cloudq.schedules.base import zone_named, zone_text
from cloudq.schedules.fields import DAY_OF_MONTH, DAY_OF_WEEK, HOUR, MINUTE, MONTH_OF_YEAR, Field, parse

Spec: TypeAlias = int | str | Iterable[int | str]

#: Years to look ahead: 29 February on a given weekday comes every 28 years, around 2100 every 40.
_YEARS: Final = 41
#: Clocks are put back by less than this.
_LONGEST_FOLD: Final = timedelta(hours=3)
_DAYS_IN: Final = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_NICKNAMES: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


class crontab:  # noqa: N801  Celery's name
    """Times by the clock and the calendar, with Celery's arguments.

    Each of ``minute`` (0-59), ``hour`` (0-23), ``day_of_week`` (0-6 or names, Sunday is 0 or 7),
    ``day_of_month`` (1-31) and ``month_of_year`` (1-12 or names) is a number, several, or text: ``*``,
    ``*/15``, ``8-18/2``, ``mon,wed``, ``22-4``. All five must fit, as in Celery (cron's text
    form lets either day fit, see ``cron``).

    ``tz`` is a zone or its name; without one the app's ``timezone`` counts. Where clocks change,
    a schedule with fixed times (neither minute nor hour begins with ``*``) runs once: at the first
    existing minute when its time is skipped, the first time when its time comes twice. Others
    follow real time. Raises ScheduleError, also for a day that never comes.
    """

    __slots__ = ("_either", "_fields", "_fixed", "_hours", "_zone")

    def __init__(
        self,
        minute: Spec = "*",
        hour: Spec = "*",
        day_of_week: Spec = "*",
        day_of_month: Spec = "*",
        month_of_year: Spec = "*",
        *,
        tz: tzinfo | str | None = None,
    ) -> None:
        fields = (
            parse(MINUTE, minute),
            parse(HOUR, hour),
            parse(DAY_OF_WEEK, day_of_week),
            parse(DAY_OF_MONTH, day_of_month),
            parse(MONTH_OF_YEAR, month_of_year),
        )
        self._init(fields, tz, either=False)

    def _init(self, fields: tuple[Field, ...], tz: tzinfo | str | None, either: bool) -> None:
        self._fields = fields
        self._zone = zone_named(tz)
        self._either = either and not fields[2].starred and not fields[3].starred
        self._fixed = not (fields[0].starred or fields[1].starred)
        self._hours = sorted(fields[1].values)
        if not self._either and not self._possible():
            raise ScheduleError(
                f"crontab: day_of_month={fields[3].text!r} in month_of_year={fields[4].text!r} never comes"
            )

    @classmethod
    def from_string(cls, text: str, *, tz: tzinfo | str | None = None) -> crontab:
        """``minute hour day_of_month month_of_year day_of_week``; all must fit, as in Celery."""
        minute, hour, day, month, weekday = _split(text)
        return crontab(minute, hour, weekday, day, month, tz=tz)

    minute = property(lambda self: self._fields[0].values, doc="The minutes it allows.")
    hour = property(lambda self: self._fields[1].values, doc="The hours it allows.")
    day_of_week = property(lambda self: self._fields[2].values, doc="The weekdays, Sunday is 0.")
    day_of_month = property(lambda self: self._fields[3].values, doc="The days of the month.")
    month_of_year = property(lambda self: self._fields[4].values, doc="The months.")

    @property
    def fields(self) -> tuple[Field, ...]:
        """Minute, hour, day_of_week, day_of_month, month_of_year."""
        return self._fields

    @property
    def zone(self) -> tzinfo | None:
        """The time zone of its own, or None."""
        return self._zone

    @property
    def fixed(self) -> bool:
        """Certain times of the day, rather than every so often?"""
        return self._fixed

    @property
    def either_day(self) -> bool:
        """Is it enough that the day of the week or the day of the month fits?"""
        return self._either

    def next_after(self, moment: float, zone: tzinfo) -> float | None:
        """See ``Schedule.next_after``."""
        zone = self._zone or zone
        local = datetime.fromtimestamp(moment, zone).replace(tzinfo=None, fold=0) - _LONGEST_FOLD
        best: float | None = None
        for start in self._hour_starts(local.replace(minute=0, second=0, microsecond=0)):
            if best is not None and min(localtime.stamps(start, zone)) >= best:
                break  # where hours overlap a later one may hold an earlier slot; not here
            found = localtime.moments(start, self._fields[0].values, zone, self._fixed)
            for slot in found:
                if slot > moment and (best is None or slot < best):
                    best = slot
        return best

    def local_times(self, day: date) -> Iterator[datetime]:
        """Its local times on a day, whether or not clocks are changed then."""
        if self._day_fits(day):
            for hour in self._hours:
                for minute in sorted(self._fields[0].values):
                    yield datetime(day.year, day.month, day.day, hour, minute)

    def _hour_starts(self, first: datetime) -> Iterator[datetime]:
        """The local hours that hold slots, from ``first`` on."""
        day, last = first.date(), min(first.year + _YEARS, 9998)
        while day.year <= last:
            if day.month not in self._fields[4].values:
                day = (day.replace(day=1) + timedelta(days=32)).replace(day=1)
                continue
            if self._day_fits(day):
                for hour in self._hours:
                    start = datetime(day.year, day.month, day.day, hour)
                    if start >= first:
                        yield start
            day += timedelta(days=1)

    def _day_fits(self, day: date) -> bool:
        if day.month not in self._fields[4].values:
            return False
        of_week = day.isoweekday() % 7 in self._fields[2].values
        of_month = day.day in self._fields[3].values
        return of_week or of_month if self._either else of_week and of_month

    def _possible(self) -> bool:
        first = min(self._fields[3].values)
        return any(first <= _DAYS_IN[month - 1] for month in self._fields[4].values)

    def plain(self) -> dict[str, Any]:
        """``{"crontab": {"minute": "0", ...}}``, with the zone when it has one."""
        names = ("minute", "hour", "day_of_week", "day_of_month", "month_of_year")
        values = {name: field.text for name, field in zip(names, self._fields, strict=True)}
        found: dict[str, Any] = {"crontab": {n: text for n, text in values.items() if text != "*"}}
        return found if self._zone is None else {**found, "tz": zone_text(self._zone)}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, crontab) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        return (*(each.values for each in self._fields), self._fixed, self._either, str(self._zone))

    def __repr__(self) -> str:
        return f"<crontab: {self}>"

    def __str__(self) -> str:
        minute, hour, weekday, day, month = (field.text for field in self._fields)
        return f"{minute} {hour} {day} {month} {weekday}"


class cron(crontab):  # noqa: N801  beside crontab
    """Cron's text: ``cron("0 9 * * mon-fri")``, ``cron("@daily")``.

    As crontab(5) says, when both days are restricted (neither begins with ``*``) it is enough that
    one of them fits.
    """

    __slots__ = ("text",)

    def __init__(self, text: str, *, tz: tzinfo | str | None = None) -> None:
        minute, hour, day, month, weekday = _split(text)
        self.text = " ".join(text.split())
        fields = (
            parse(MINUTE, minute),
            parse(HOUR, hour),
            parse(DAY_OF_WEEK, weekday),
            parse(DAY_OF_MONTH, day),
            parse(MONTH_OF_YEAR, month),
        )
        self._init(fields, tz, either=True)

    def plain(self) -> dict[str, Any]:
        """``{"cron": "0 9 * * mon-fri"}``, with the zone when it has one."""
        found: dict[str, Any] = {"cron": self.text}
        return found if self._zone is None else {**found, "tz": zone_text(self._zone)}


def _split(text: str) -> list[str]:
    if not isinstance(text, str):
        raise ScheduleError(f"cron: five fields of text expected, got {text!r}")
    parts = _NICKNAMES.get(text.strip().lower(), text).split()
    if len(parts) != 5:
        known = ", ".join(_NICKNAMES)
        raise ScheduleError(
            f"cron: {text!r} has {len(parts)} fields; it takes five (minute hour day month weekday), or one of {known}"
        )
    return parts
