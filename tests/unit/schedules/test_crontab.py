"""crontab: Celery's syntax, cron's text, the same slots as a well-kept cron library, clocks that change."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudq.errors import ScheduleError
from cloudq.schedules.base import between
from cloudq.schedules.crontab import cron, crontab
from cloudq.schedules.reading import as_schedule

BERLIN = ZoneInfo("Europe/Berlin")
ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Sydney",
    "Asia/Kathmandu",
]


def slots(rule: crontab, start: datetime, count: int) -> list[datetime]:
    """The first slots after ``start``, in its zone."""
    zone, found, moment = start.tzinfo, [], start.timestamp()
    assert zone is not None
    for _ in range(count):
        following = rule.next_after(moment, zone)
        assert following is not None
        moment = following
        found.append(datetime.fromtimestamp(moment, zone))
    return found


def texts(found: list[datetime]) -> list[str]:
    return [each.strftime("%m-%d %H:%M%z") for each in found]


# --- Celery's syntax --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "field", "values"),
    [
        ({"minute": 5}, "minute", {5}),
        ({"minute": "*/15"}, "minute", {0, 15, 30, 45}),
        ({"minute": "3-59/20"}, "minute", {3, 23, 43}),
        ({"minute": "0, 30"}, "minute", {0, 30}),
        ({"minute": [1, 2]}, "minute", {1, 2}),
        ({"minute": {7}}, "minute", {7}),
        ({"minute": range(0, 60, 20)}, "minute", {0, 20, 40}),
        ({"hour": "22-4"}, "hour", {22, 23, 0, 1, 2, 3, 4}),
        ({"hour": "*/8,13-15"}, "hour", {0, 8, 16, 13, 14, 15}),
        ({"day_of_week": "mon"}, "day_of_week", {1}),
        ({"day_of_week": "Monday,WED"}, "day_of_week", {1, 3}),
        ({"day_of_week": "fri-mon"}, "day_of_week", {5, 6, 0, 1}),
        ({"day_of_week": 7}, "day_of_week", {0}),
        ({"day_of_week": "5-7"}, "day_of_week", {5, 6, 0}),
        ({"day_of_week": ("mon", 3, "5-6")}, "day_of_week", {1, 3, 5, 6}),
        ({"day_of_month": "1-7,15-21"}, "day_of_month", {*range(1, 8), *range(15, 22)}),
        ({"day_of_month": "*/10"}, "day_of_month", {1, 11, 21, 31}),
        ({"month_of_year": "*/3"}, "month_of_year", {1, 4, 7, 10}),
        ({"month_of_year": "nov-feb"}, "month_of_year", {11, 12, 1, 2}),
        ({"month_of_year": [1, "july"]}, "month_of_year", {1, 7}),
    ],
)
def test_a_field_takes_what_celery_takes(given: dict[str, object], field: str, values: set[int]) -> None:
    assert getattr(crontab(**given), field) == values  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"minute": 60}, "minute=60 goes from 0 to 59"),
        ({"minute": "-1"}, "'-1', which is no value"),
        ({"hour": 24}, "0 to 23"),
        ({"day_of_month": 0}, "1 to 31"),
        ({"day_of_week": 8}, "0 to 6"),
        ({"day_of_week": "mnoday"}, "did you mean 'monday'"),
        ({"month_of_year": "sept"}, "did you mean 'sep"),
        ({"minute": "5/15"}, "write 5-59/15"),
        ({"minute": "*/0"}, "step '0'"),
        ({"minute": "*/x"}, "step 'x'"),
        ({"minute": "*/"}, "step ''"),
        ({"minute": ""}, "empty part"),
        ({"minute": "1,,2"}, "empty part"),
        ({"minute": []}, "allows nothing"),
        ({"minute": [True]}, "member True"),
        ({"minute": 1.5}, "is a number, text"),
        ({"minute": True}, "is a number, text"),
        ({"day_of_month": 31, "month_of_year": "feb,apr"}, "never comes"),
        ({"tz": "Europe/Pariss"}, "did you mean Europe/Paris"),
        ({"tz": "../etc/passwd"}, "is not known"),
        ({"tz": 3}, "is a name like"),
    ],
)
def test_what_cannot_be_is_refused_with_the_fix(given: dict[str, object], says: str) -> None:
    with pytest.raises(ScheduleError, match=says.replace("*", r"\*").replace("(", r"\(")):
        crontab(**given)  # type: ignore[arg-type]


def test_with_both_days_given_both_must_fit_as_in_celery() -> None:
    rule = crontab(0, 0, day_of_week="fri", day_of_month=13)

    found = slots(rule, datetime(2026, 1, 1, tzinfo=UTC), 3)

    assert texts(found) == ["02-13 00:00+0000", "03-13 00:00+0000", "11-13 00:00+0000"]


def test_in_crons_text_one_of_the_days_is_enough() -> None:
    found = slots(cron("0 0 13 * fri"), datetime(2026, 2, 1, tzinfo=UTC), 3)

    assert texts(found) == ["02-06 00:00+0000", "02-13 00:00+0000", "02-20 00:00+0000"]
    celery = crontab.from_string("0 0 13 * fri")
    assert texts(slots(celery, datetime(2026, 2, 1, tzinfo=UTC), 1)) == ["02-13 00:00+0000"]


@pytest.mark.parametrize("text", ["* * * *", "* * * * * *", "@reboot", "", "0 0 0 * *"])
def test_text_that_is_no_cron_line_is_refused(text: str) -> None:
    with pytest.raises(ScheduleError):
        cron(text)


def test_nicknames_are_cron_lines() -> None:
    assert cron("@daily").hour == {0}
    assert cron("@hourly").plain() == {"cron": "@hourly"}


def test_the_29th_of_february_on_a_monday_is_found_and_a_day_that_never_comes_is_not_asked_for() -> None:
    rule = crontab(0, 0, day_of_week="mon", day_of_month=29, month_of_year=2)

    assert [each.year for each in slots(rule, datetime(2026, 1, 1, tzinfo=UTC), 2)] == [2044, 2072]


@given(
    st.sets(st.integers(0, 59), min_size=1, max_size=3),
    st.sets(st.integers(0, 23), min_size=1, max_size=3),
    st.sets(st.integers(0, 6), min_size=1),
    st.sets(st.integers(1, 28), min_size=6),
    st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1)),
)
@settings(max_examples=60, deadline=None)
def test_every_field_fits_and_nothing_between_does(
    minutes: set[int], hours: set[int], weekdays: set[int], days: set[int], start: datetime
) -> None:
    rule = crontab(minutes, hours, weekdays, days)
    moment = start.replace(tzinfo=UTC).timestamp()
    found = rule.next_after(moment, UTC)
    assert found is not None
    assert found > moment
    # asked minute by minute, by nothing but the definition
    at = (start + timedelta(minutes=1)).replace(second=0, microsecond=0)
    if start.second == start.microsecond == 0 and start < at - timedelta(minutes=1):
        at = start
    while not (
        at.minute in minutes and at.hour in hours and at.isoweekday() % 7 in weekdays and at.day in days
    ):
        at += timedelta(minutes=1) if at.hour in hours else timedelta(minutes=60 - at.minute)
    assert datetime.fromtimestamp(found, UTC).replace(tzinfo=None) == at


# --- the same as a well-kept library, where clocks change too ---------------------------------------

_MINUTES = st.sampled_from(["*", "*/7", "*/30", "0", "17", "0,30", "5-50/15", "59"])
_HOURS = st.sampled_from(["*", "*/2", "0", "1", "2", "3", "1-3", "23", "0-23/5", "2,14"])
_DAYS_OF_MONTH = st.sampled_from(["*", "1", "13", "*/9", "25-31", "29"])
_MONTHS = st.sampled_from(["*", "3", "oct", "*/5", "3,4,9-11"])
_WEEKDAYS = st.sampled_from(["*", "0", "7", "sun", "mon-fri", "6", "*/3"])


@given(
    st.tuples(_MINUTES, _HOURS, _DAYS_OF_MONTH, _MONTHS, _WEEKDAYS),
    st.sampled_from(ZONES),
    st.integers(int(datetime(2024, 1, 1).timestamp()), int(datetime(2030, 1, 1).timestamp())),
)
@settings(max_examples=250, deadline=None)
def test_the_slots_are_those_of_cronsim(fields: tuple[str, ...], zone_name: str, start: int) -> None:
    _compare(" ".join(fields), ZoneInfo(zone_name), start, 6)


@given(
    st.tuples(_MINUTES, _HOURS),
    st.sampled_from(ZONES[1:]),
    st.sampled_from(["2026-03-08", "2026-03-29", "2026-04-05", "2026-10-04", "2026-10-25", "2026-11-01"]),
    st.integers(-30 * 3600, 6 * 3600),
)
@settings(max_examples=250, deadline=None)
def test_the_slots_are_those_of_cronsim_on_the_days_when_clocks_change(
    fields: tuple[str, str], zone_name: str, day: str, offset: int
) -> None:
    start = int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()) + offset
    _compare(f"{fields[0]} {fields[1]} * * *", ZoneInfo(zone_name), start, 40)


def _compare(text: str, zone: ZoneInfo, start: int, count: int) -> None:
    peer = [
        each.timestamp()
        for each in itertools.islice(CronSim(text, datetime.fromtimestamp(start, zone)), count)
    ]
    rule, moment, mine = cron(text), float(start), []
    for _ in peer:
        moment = rule.next_after(moment, zone)  # type: ignore[assignment]
        mine.append(moment)
    assert mine == peer


@pytest.mark.parametrize("text", ["* */2 * * *", "*/20 * * * *", "15 * * * *", "*/30 0-2 * * *"])
@pytest.mark.parametrize(
    ("place", "around"),
    [
        ("Australia/Lord_Howe", "2026-04-04T15:00"),  # back from 02:00 to 01:30
        ("Australia/Lord_Howe", "2026-10-03T15:30"),  # forward from 02:00 to 02:30
        ("America/Havana", "2026-03-08T05:00"),  # midnight does not exist
        ("America/Havana", "2026-11-01T05:00"),  # midnight comes twice
    ],
)
def test_in_odd_places_every_real_minute_that_fits_is_a_slot(text: str, place: str, around: str) -> None:
    # cronsim itself is off by a step here, so the definition is asked, minute by minute
    zone, rule = ZoneInfo(place), cron(text)
    start = int(datetime.fromisoformat(around).replace(tzinfo=UTC).timestamp()) - 4 * 3600

    expected = [
        float(moment)
        for moment in range(start + 60, start + 9 * 3600 + 1, 60)
        if (local := datetime.fromtimestamp(moment, zone)).minute in rule.minute and local.hour in rule.hour
    ]

    assert list(between(rule, start, start + 9 * 3600, zone)) == expected


def test_a_time_that_is_skipped_runs_when_the_clocks_have_jumped() -> None:
    found = slots(crontab(30, 2), datetime(2026, 3, 28, tzinfo=BERLIN), 3)

    assert texts(found) == ["03-28 02:30+0100", "03-29 03:00+0200", "03-30 02:30+0200"]


def test_two_times_in_the_gap_run_once() -> None:
    found = slots(crontab("0,30", 2), datetime(2026, 3, 29, tzinfo=BERLIN), 2)

    assert texts(found) == ["03-29 03:00+0200", "03-30 02:00+0200"]


def test_a_time_that_comes_twice_runs_the_first_time() -> None:
    found = slots(crontab(30, 2), datetime(2026, 10, 24, 12, tzinfo=BERLIN), 2)

    assert texts(found) == ["10-25 02:30+0200", "10-26 02:30+0100"]


def test_every_half_hour_follows_real_time_through_both_changes() -> None:
    rule = crontab("*/30")

    forward = list(between(rule, _at(2026, 3, 29, 0, 59), _at(2026, 3, 29, 3, 0), BERLIN))
    back = list(between(rule, _at(2026, 10, 25, 1, 59), _at(2026, 10, 25, 3, 0), BERLIN))

    assert [b - a for a, b in itertools.pairwise(forward)] == [1800.0] * 2
    assert [b - a for a, b in itertools.pairwise(back)] == [1800.0] * 4


def _at(*parts: int) -> float:
    return datetime(*parts, tzinfo=BERLIN).timestamp()  # type: ignore[misc]


def test_a_zone_of_its_own_counts_before_the_apps() -> None:
    rule = crontab(0, 9, tz="America/New_York")

    [found] = slots(rule, datetime(2026, 7, 1, tzinfo=BERLIN), 1)

    assert found.astimezone(UTC).hour == 13


@pytest.mark.parametrize(
    "rule", [crontab("*/5", [1, 2], tz="Europe/Berlin"), cron("0 0 13 * 5"), crontab(0, tz=UTC)]
)
def test_a_rule_survives_json(rule: crontab) -> None:
    assert as_schedule(json.loads(json.dumps(rule.plain()))) == rule


def test_a_zone_without_a_name_cannot_be_stored() -> None:
    rule = crontab(tz=datetime.now().astimezone().tzinfo.__class__(timedelta(hours=1)))  # type: ignore[union-attr,call-arg]

    with pytest.raises(ScheduleError, match="ZoneInfo"):
        rule.plain()


def test_rules_compare_by_what_they_allow() -> None:
    assert crontab(0) == crontab("0") != crontab(1)
    assert len({crontab(0), crontab("0")}) == 1
    assert str(crontab(0, 9, day_of_week="mon")) == "0 9 * * mon"
