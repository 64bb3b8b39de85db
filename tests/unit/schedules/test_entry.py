"""Entries: what they may say, and which slots are due by each catchup policy."""

from __future__ import annotations

import json
from datetime import UTC
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudq import CloudQ, crontab, schedule
from cloudq.errors import ImproperlyConfigured, ScheduleError
from cloudq.periodic import declared
from cloudq.schedules.entry import Entry, entry_from

T0 = 1_800_000_000.0  # a full minute


def minutely(**more: Any) -> Entry:
    return entry_from("m", {"task": "t", "schedule": 60, **more})


# --- what is due ------------------------------------------------------------------------------------


def test_nothing_is_due_before_the_next_slot() -> None:
    due = minutely().due(T0, T0 + 59.9, UTC, 100)

    assert (due.slots, due.dropped, due.last) == ((), False, None)


def test_latest_sends_the_last_of_what_was_missed() -> None:
    due = minutely().due(T0, T0 + 600, UTC, 100)

    assert (due.slots, due.dropped, due.last) == ((T0 + 600,), True, T0 + 600)


def test_all_sends_every_one_up_to_the_limit_and_keeps_the_newest() -> None:
    assert minutely(catchup="all").due(T0, T0 + 180, UTC, 100).slots == (T0 + 60, T0 + 120, T0 + 180)

    due = minutely(catchup="all").due(T0 - 1e7, T0, UTC, 3)

    assert (due.slots, due.dropped) == ((T0 - 120, T0 - 60, T0), True)


def test_skip_sends_what_is_hardly_late_and_nothing_older() -> None:
    entry = minutely(catchup="skip")

    assert entry.due(T0, T0 + 60 + 5, UTC, 100).slots == (T0 + 60,)
    hourly = entry_from("h", {"task": "t", "schedule": 3600, "catchup": "skip"})
    late = hourly.due(T0 - 3600, T0 + 1800, UTC, 100)
    assert late.slots == ()
    assert late.last is not None
    assert late.dropped


def test_a_year_away_is_looked_through_quickly_and_only_the_last_slot_is_sent() -> None:
    every_second = entry_from("s", {"task": "t", "schedule": 1})

    assert every_second.due(T0 - 31_536_000, T0, UTC, 100).slots == (T0,)


@given(st.floats(0, 5000), st.floats(0, 500), st.sampled_from([0.0, 30.0, 90.0, 600.0]))
def test_with_all_every_slot_is_due_once_and_in_order_whatever_the_ticks(
    start: float, step: float, jitter: float
) -> None:
    entry = minutely(catchup="all", jitter=jitter)
    last, sent = T0 + start, []
    for tick in range(40):
        now = T0 + start + tick * (step + 1)
        due = entry.due(last, now, UTC, 10_000)
        assert all(slot + entry.delay(slot) <= now for slot in due.slots)
        sent += due.slots
        last = due.last or last
    later = entry.due(last, now + jitter + 120, UTC, 10_000).slots
    expected = [T0 + 60 * n for n in range(1, 2000) if T0 + start < T0 + 60 * n]
    assert [*sent, *later] == expected[: len(sent) + len(later)]
    assert len(sent) + len(later) >= (now - T0 - start) // 60


def test_jitter_is_the_same_for_the_same_slot_and_another_for_the_next() -> None:
    entry = minutely(jitter=30)

    delays = [entry.delay(T0 + 60 * n) for n in range(50)]

    assert delays == [minutely(jitter=30).delay(T0 + 60 * n) for n in range(50)]
    assert all(0 <= each < 30 for each in delays)
    assert len(set(delays)) == 50


def test_jitter_longer_than_the_interval_starves_nobody() -> None:
    entry = minutely(jitter=600)
    last, sent = T0, []
    for now in range(int(T0), int(T0) + 7200, 5):
        due = entry.due(last, float(now), UTC, 100)
        sent += due.slots
        last = due.last or last
    assert len(sent) > 10
    assert sent == sorted(sent)


def test_an_entrys_time_zone_counts_before_the_apps() -> None:
    entry = entry_from("z", {"task": "t", "schedule": crontab(0, 9), "timezone": "Asia/Tokyo"})

    assert entry.next_due(T0, UTC) == (T0 // 86400 + 1) * 86400  # 09:00 in Tokyo is midnight UTC


# --- what an entry may say --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"task": "t"}, "lacks 'schedule'"),
        ({"schedule": 5}, "lacks 'task'"),
        ({"task": "t", "schedule": 5, "shedule": 1}, "did you mean 'schedule'"),
        ({"task": "", "schedule": 5}, "task is a task or its name"),
        ({"task": "t", "schedule": "daily"}, "has 1 fields"),
        ({"task": "t", "schedule": 5, "args": "x"}, r"args is a list"),
        ({"task": "t", "schedule": 5, "kwargs": [1]}, "kwargs is a mapping"),
        ({"task": "t", "schedule": 5, "options": {"queu": "x"}}, "did you mean 'queue'"),
        ({"task": "t", "schedule": 5, "options": {"task_id": "x"}}, "takes no task_id"),
        ({"task": "t", "schedule": 5, "options": {"eta": 5}}, "takes no eta"),
        ({"task": "t", "schedule": 5, "options": {"jitter": 5}}, "stands beside 'options'"),
        ({"task": "t", "schedule": 5, "catchup": "none"}, "latest, all, skip"),
        ({"task": "t", "schedule": 5, "enabled": "no"}, "True or False"),
        ({"task": "t", "schedule": 5, "jitter": -1}, "from 0"),
        ({"task": "t", "schedule": 5, "timezone": "Mars/Phobos"}, "not known"),
        ("t", "mapping"),
    ],
)
def test_an_entry_of_beat_schedule_that_cannot_be_is_refused(given: Any, says: str) -> None:
    app = CloudQ("x", beat_schedule={"bad one": given})

    with pytest.raises(ScheduleError, match=says) as caught:
        declared(app.periodic_entries, app.conf.beat_schedule, app.tasks, True)
    assert "bad one" in str(caught.value)


def test_an_entry_survives_json() -> None:
    entry = entry_from(
        "e",
        {
            "task": "t",
            "schedule": crontab("*/5", tz="Europe/Paris"),
            "args": (1, "two"),
            "kwargs": {"a": [1]},
            "options": {"queue": "q"},
            "catchup": "all",
            "skip_if_running": 5.0,
            "jitter": 3,
            "timezone": "UTC",
            "enabled": False,
        },
    )

    again = entry_from("e", json.loads(json.dumps(entry.plain())))

    assert again.plain() == entry.plain()
    assert again.schedule == entry.schedule


# --- declaring ----------------------------------------------------------------------------------------


def test_the_three_ways_to_declare_one() -> None:
    app = CloudQ("x", beat_schedule={"c": {"task": "elsewhere", "schedule": "@hourly", "args": [1]}})

    @app.periodic(crontab(hour=7), catchup="skip", queue="slow", kwargs={"x": 1})
    @app.task
    def a(x: int) -> int:
        return x

    @app.periodic(30.0, name="plain function")
    def b() -> None: ...

    app.add_periodic_task(schedule(60), a.s(5).set(queue="fast"), name="a5", expires=30)
    app.add_periodic_task(60, a, (6,), name="a6")
    found = declared(app.periodic_entries, app.conf.beat_schedule, app.tasks, True)

    assert sorted(found) == sorted([a.name, "plain function", "a5", "a6", "c"])
    assert found[a.name].options == {"queue": "slow"}
    assert (found[a.name].kwargs, found[a.name].catchup) == ({"x": 1}, "skip")
    assert (found["a5"].args, found["a5"].options) == ((5,), {"queue": "fast", "expires": 30})
    assert found["a6"].args == (6,)
    assert found["plain function"].task == b.name
    assert a(3) == 3


def test_two_entries_of_one_name_are_refused_and_the_same_twice_is_one() -> None:
    app = CloudQ("x")

    @app.task
    def a() -> None: ...

    app.add_periodic_task(60, a.s())
    app.add_periodic_task(60, a.s())
    with pytest.raises(ScheduleError, match="another name="):
        app.add_periodic_task(61, a.s())
    assert len(app.periodic_entries) == 1


def test_arguments_that_do_not_fit_the_task_are_refused() -> None:
    app = CloudQ("x")

    @app.periodic(60)
    @app.task
    def a(x: int) -> None: ...

    with pytest.raises(ScheduleError, match="x"):
        declared(app.periodic_entries, {}, app.tasks, True)


def test_skip_if_running_needs_results() -> None:
    app = CloudQ("x")

    @app.periodic(60, skip_if_running=True)
    @app.task(ignore_result=True)
    def a() -> None: ...

    with pytest.raises(ScheduleError, match="skip_if_running"):
        declared(app.periodic_entries, {}, app.tasks, True)


@pytest.mark.parametrize("bad", [None, "x", ()])
def test_add_periodic_task_wants_a_signature(bad: object) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"task\.s"):
        CloudQ("x").add_periodic_task(60, bad)


def test_a_workflow_is_not_periodic_by_itself() -> None:
    from cloudq import chain

    app = CloudQ("x")

    @app.task
    def a() -> None: ...

    with pytest.raises(ScheduleError, match="write a task that calls it"):
        app.add_periodic_task(60, chain(a.si(), a.si()))


def test_a_wrong_schedule_is_refused_at_the_decorator() -> None:
    with pytest.raises(ScheduleError):
        CloudQ("x").periodic("every day")
