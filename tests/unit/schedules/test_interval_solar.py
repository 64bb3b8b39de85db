"""Intervals on the clock, the sun, and whatever a schedule may be written as."""

from __future__ import annotations

import itertools
import json
import sys
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudq import crontab, schedule, solar
from cloudq.errors import MissingExtra, ScheduleError
from cloudq.schedules.base import between
from cloudq.schedules.reading import as_schedule

NOON = datetime(2026, 6, 21, 12, tzinfo=UTC).timestamp()


def test_an_interval_is_on_the_clock_whenever_it_is_asked() -> None:
    every = schedule(timedelta(minutes=10))

    assert [slot - NOON for slot in between(every, NOON + 61, NOON + 1800, UTC)] == [600.0, 1200.0, 1800.0]
    assert every.next_after(NOON, UTC) == NOON + 600


def test_an_anchor_moves_the_slots() -> None:
    every = schedule(timedelta(days=1), anchor=datetime(2026, 1, 1, 6, 30, tzinfo=UTC))

    assert every.next_after(NOON, UTC) == datetime(2026, 6, 22, 6, 30, tzinfo=UTC).timestamp()


@given(st.floats(1, 1e7), st.floats(0, 4e9))
def test_slots_are_evenly_spaced_and_strictly_later(seconds: float, moment: float) -> None:
    every = schedule(seconds)
    first = every.next_after(moment, UTC)
    assert first is not None
    second = every.next_after(first, UTC)
    assert second is not None
    assert moment < first + 1e-6 < second + 1e-6
    assert second - first == pytest.approx(seconds, abs=2e-6)


@pytest.mark.parametrize("bad", [0, -1, 0.5, True, "x", timedelta(0), float("nan"), float("inf"), None])
def test_an_interval_of_nothing_is_refused(bad: object) -> None:
    with pytest.raises(ScheduleError, match="interval"):
        schedule(bad)  # type: ignore[arg-type]


def test_an_anchor_without_a_zone_is_refused() -> None:
    with pytest.raises(ScheduleError, match="tzinfo=UTC"):
        schedule(60, anchor=datetime(2026, 1, 1))
    with pytest.raises(ScheduleError, match="anchor is a datetime"):
        schedule(60, True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("event", "expected"),
    [("sunrise", "03:46"), ("solar_noon", "11:52"), ("sunset", "19:57"), ("dusk_civil", "20:40")],
)
def test_the_sun_over_paris_at_midsummer(event: str, expected: str) -> None:
    # 2026-06-21, Paris: sunrise 05:46, noon 13:52, sunset 21:57, civil dusk 22:40, all CEST
    found = solar(event, 48.8566, 2.3522).next_after(datetime(2026, 6, 21, tzinfo=UTC).timestamp(), UTC)

    assert found is not None
    at = datetime.fromisoformat(f"2026-06-21T{expected}+00:00").timestamp()
    assert abs(found - at) <= 120


def test_every_event_of_a_day_comes_in_the_order_of_the_day() -> None:
    from cloudq.schedules.solar import EVENTS

    start = datetime(2026, 3, 20, 1, tzinfo=UTC).timestamp()
    found = [solar(event, 48.85, 2.35).next_after(start, UTC) for event in EVENTS]

    assert found == sorted(found)  # type: ignore[type-var]


def test_in_polar_night_the_next_sunrise_is_weeks_away_and_days_do_not_repeat() -> None:
    rule = solar("sunrise", 69.65, 18.96)  # Tromsø: no sunrise from late November to mid January

    found = list(between(rule, datetime(2026, 12, 1, tzinfo=UTC).timestamp(), 1_802_000_000, UTC))

    first = datetime.fromtimestamp(found[0], UTC)
    assert (first.year, first.month) == (2027, 1)
    assert all(later - earlier > 80_000 for earlier, later in itertools.pairwise(found))


def test_at_the_pole_there_is_no_nautical_dusk_in_summer_but_one_later() -> None:
    found = solar("dusk_nautical", 90.0, 0.0).next_after(NOON, UTC)

    assert found is None or found > NOON + 60 * 86_400


@pytest.mark.parametrize(
    "bad", [("sunrice", 1, 1), ("sunrise", 91, 0), ("sunrise", 0, 181), ("sunrise", "1", 0)]
)
def test_a_wrong_event_or_place_is_refused(bad: tuple[str, float, float]) -> None:
    with pytest.raises(ScheduleError, match=r"sunrise|degrees"):
        solar(*bad)


def test_without_astral_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "astral", None)

    with pytest.raises(MissingExtra, match=r"cloudq-tasks\[solar\]"):
        solar("sunset", 1, 1).next_after(NOON, UTC)


@pytest.mark.parametrize(
    ("given", "same"),
    [
        (30, schedule(30)),
        (30.5, schedule(30.5)),
        (timedelta(hours=1), schedule(3600)),
        ("*/5 * * * *", crontab("*/5")),
        ({"every": 60}, schedule(60)),
        ({"cron": "0 9 * * *", "tz": "Europe/Paris"}, crontab(0, 9, tz="Europe/Paris")),
        ({"crontab": {"minute": 0, "hour": "9"}}, crontab(0, 9)),
        ({"solar": {"event": "sunset", "lat": 1, "lon": 2}}, solar("sunset", 1, 2)),
    ],
)
def test_a_schedule_may_be_written_in_many_ways(given: object, same: object) -> None:
    assert as_schedule(given) == same


@pytest.mark.parametrize(
    "rule",
    [schedule(90), schedule(60, datetime(2026, 1, 1, 0, 0, 30, tzinfo=UTC)), solar("sunset", -33.5, 151)],
)
def test_what_is_stored_reads_back_the_same(rule: schedule | solar) -> None:
    assert as_schedule(json.loads(json.dumps(rule.plain()))) == rule


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (None, "a schedule is"),
        (True, "a schedule is"),
        ({}, "one of"),
        ({"every": 5, "cron": "* * * * *"}, "one of"),
        ({"every": 5, "tz": "UTC"}, "no 'tz'"),
        ({"crontab": {"minutes": 1}}, "minutes"),
        ({"solar": {"event": "sunset"}}, "lat"),
        ({"every": 5, "anchor": "yesterday"}, "yesterday"),
    ],
)
def test_what_is_no_schedule_is_refused(bad: object, says: str) -> None:
    with pytest.raises(ScheduleError, match=says):
        as_schedule(bad)


def test_a_schedule_of_ones_own_only_needs_two_methods() -> None:
    class Once:
        def next_after(self, moment: float, zone: object) -> float | None:
            return 5.0 if moment < 5 else None

        def plain(self) -> dict[str, object]:
            return {}

    assert list(between(as_schedule(Once()), 0, 10, ZoneInfo("UTC"))) == [5.0]
