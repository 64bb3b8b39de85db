"""EventBridge's words for a schedule: the same slots, or a reason why not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudq import crontab, schedule, solar
from cloudq.errors import ScheduleError
from cloudq.schedules.base import Schedule, between
from cloudq.schedules.crontab import cron
from cloudq.schedules.translation import translate

NOW = datetime(2026, 11, 21, 10, 7, 30, tzinfo=UTC).timestamp()
BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("rule", "expression"),
    [
        (crontab(), "cron(* * * * ? *)"),
        (crontab(0, 9), "cron(0 9 * * ? *)"),
        (crontab("*/15"), "cron(0/15 * * * ? *)"),
        (crontab("*/7"), "cron(0/7 * * * ? *)"),
        (crontab("5-50/15", "8-18"), "cron(5/15 8-18 * * ? *)"),
        (crontab(0, 0, day_of_month="1,15"), "cron(0 0 1,15 * ? *)"),
        (crontab(0, 0, month_of_year="*/3", day_of_month=1), "cron(0 0 1 1/3 ? *)"),
        (crontab(30, 6, day_of_week="sun"), "cron(30 6 ? * SUN *)"),
        (crontab(30, 6, day_of_week="mon-fri"), "cron(30 6 ? * MON-FRI *)"),
        (crontab(30, 6, day_of_week="fri-mon"), "cron(30 6 ? * SUN-MON,FRI-SAT *)"),
        (crontab(0, 9, day_of_week="fri", day_of_month="8-14"), "cron(0 9 ? * FRI#2 *)"),
        (crontab(0, 9, day_of_week="mon", day_of_month="29-31"), "cron(0 9 ? * MON#5 *)"),
        (cron("0 9 * * 7"), "cron(0 9 ? * SUN *)"),
        (cron("@monthly"), "cron(0 0 1 * ? *)"),
    ],
)
def test_crontabs_are_translated(rule: Schedule, expression: str) -> None:
    found = translate(rule, UTC, NOW)

    assert (found.text, found.timezone, found.starts) == (expression, "UTC", None)


@pytest.mark.parametrize(
    ("rule", "expression"),
    [
        (schedule(60), "rate(1 minute)"),
        (schedule(timedelta(minutes=7)), "rate(7 minutes)"),
        (schedule(3600), "rate(1 hour)"),
        (schedule(timedelta(hours=36)), "rate(36 hours)"),
        (schedule(timedelta(days=2)), "rate(2 days)"),
    ],
)
def test_intervals_are_rates_that_start_at_a_slot(rule: schedule, expression: str) -> None:
    found = translate(rule, UTC, NOW)

    assert found.text == expression
    assert found.starts == rule.next_after(NOW, UTC)
    assert found.every == rule.run_every.total_seconds()


@pytest.mark.parametrize(
    ("rule", "zone", "says"),
    [
        (schedule(30), UTC, "whole minutes"),
        (schedule(90), UTC, "whole minutes"),
        (solar("sunset", 1, 1), UTC, "nothing like solar"),
        (cron("0 0 13 * fri"), UTC, "make two periodic tasks"),
        (crontab(0, 0, day_of_week="fri", day_of_month=13), UTC, "not both"),
        (crontab(0, 0, day_of_week="mon,tue", day_of_month="1-7"), UTC, "not both"),
        (crontab(30, 2), BERLIN, "02:30 on 2027-03-28, a time that Europe/Berlin skips"),
        (crontab("*/15", 2), BERLIN, "02:00 on 2027-03-28"),
        (crontab(0, "*/2"), BERLIN, "choose another time, or UTC"),
        (crontab("*/15", [1]), ZoneInfo("America/New_York"), "comes twice in America/New_York"),
        (crontab("*/20"), ZoneInfo("Australia/Lord_Howe"), "Lord_Howe"),
        (
            crontab(0, 9),
            datetime.now().astimezone().tzinfo.__class__(timedelta(hours=1)),
            "name of a time zone",
        ),  # type: ignore[union-attr,call-arg]
        (
            crontab(
                [n for n in range(60) if n % 3],
                [n for n in range(24) if n % 3],
                day_of_month=[n for n in range(1, 32) if n % 3],
            ),
            UTC,
            "",
        ),
    ],
)
def test_what_cannot_be_said_exactly_is_refused_with_the_reason(
    rule: Schedule, zone: ZoneInfo, says: str
) -> None:
    if not says:  # long, but not too long: the longest that any crontab gets
        assert len(translate(rule, zone, NOW).text) <= 256
        return
    with pytest.raises(ScheduleError, match=re.escape(says)):
        translate(rule, zone, NOW)


def test_times_that_no_change_of_the_clocks_touches_keep_their_zone() -> None:
    found = translate(crontab(0, 9, day_of_week="mon-fri"), BERLIN, NOW)

    assert (found.text, found.timezone) == ("cron(0 9 ? * MON-FRI *)", "Europe/Berlin")
    assert translate(crontab(30, 2, tz="Asia/Tokyo"), BERLIN, NOW).timezone == "Asia/Tokyo"


def test_a_time_that_comes_twice_is_run_once_by_both() -> None:
    assert translate(crontab(30, 1), ZoneInfo("America/New_York"), NOW).timezone == "America/New_York"


def test_the_same_minutes_of_every_hour_are_said_in_utc() -> None:
    assert translate(crontab("*/15"), BERLIN, NOW).timezone == "UTC"
    assert translate(crontab(5), BERLIN, NOW).timezone == "UTC"


def test_where_the_skipped_night_is_not_a_day_of_the_schedule_it_is_exact() -> None:
    # clocks change on Sundays only
    assert translate(crontab(30, 2, day_of_week="mon-sat"), BERLIN, NOW).timezone == "Europe/Berlin"


# --- the meaning of an expression, read back by AWS's rules -----------------------------------------

_NAMES = {name: number for number, name in enumerate(["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"], 1)}


def _field(text: str, first: int, last: int) -> set[int]:
    def number(part: str) -> int:
        return _NAMES.get(part) or int(part)

    found: set[int] = set()
    for part in text.split(","):
        if part == "*":
            found |= set(range(first, last + 1))
        elif "/" in part:
            start, step = part.split("/")
            found |= set(range(int(start), last + 1, int(step)))
        elif "-" in part:
            low, high = part.split("-")
            found |= set(range(number(low), number(high) + 1))
        else:
            found.add(number(part))
    return found


def _aws_slots(expression: str, zone: ZoneInfo, start: float, end: float) -> Iterator[float]:
    """Minute by minute, as the user guide says: skipped times are not run, double ones once."""
    minute, hour, day, month, weekday, year = expression.removeprefix("cron(").removesuffix(")").split()
    assert year == "*"
    assert [day, weekday].count("?") == 1
    seen: set[datetime] = set()
    moment = start - start % 60 + 60
    while moment <= end:
        local = datetime.fromtimestamp(moment, zone).replace(tzinfo=None)
        if "#" in weekday:
            name, nth = weekday.split("#")
            fits = local.isoweekday() % 7 + 1 == _NAMES[name] and (local.day - 1) // 7 + 1 == int(nth)
        elif day == "?":
            fits = local.isoweekday() % 7 + 1 in _field(weekday, 1, 7)
        else:
            fits = local.day in _field(day, 1, 31)
        if (
            fits
            and local.minute in _field(minute, 0, 59)
            and local.hour in _field(hour, 0, 23)
            and local.month in _field(month, 1, 12)
            and local not in seen
        ):
            seen.add(local)
            yield moment
        moment += 60


@given(
    st.sampled_from(["*", "*/20", "0", "30", "5,50"]),
    st.sampled_from(["*", "*/3", "1", "2", "3", "0-4", "9"]),
    st.sampled_from(["*", "sun", "mon-fri", "*/2", "fri-mon"]),
    st.sampled_from(["*", "1-7", "8-14", "28,29", "*/5"]),
    st.sampled_from(["*", "mar,oct,nov", "*/2"]),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe"]),
    st.sampled_from(
        ["2027-03-13", "2027-03-27", "2027-04-03", "2027-10-02", "2027-10-30", "2027-11-06", "2027-06-10"]
    ),
)
@settings(max_examples=150, deadline=None)
def test_what_is_translated_means_the_same_slots_on_the_days_when_clocks_change_too(
    minute: str, hour: str, weekday: str, day: str, month: str, zone_name: str, around: str
) -> None:
    zone = ZoneInfo(zone_name)
    rule = crontab(minute, hour, weekday, day, month)
    try:
        found = translate(rule, zone, NOW)
    except ScheduleError:
        return
    start = datetime.fromisoformat(around).replace(tzinfo=UTC).timestamp()
    end = start + 3 * 86_400

    aws = list(_aws_slots(found.text, ZoneInfo(found.timezone), start, end))

    assert aws == list(between(rule, start, end, zone))
