"""Periodic tasks in the dashboard."""

import pytest
from dashboard_browser import NASTY, Browser

from cloudq import CloudQ, crontab
from cloudq.beat.book import Book
from cloudq.schedules.entry import entry_from


@pytest.fixture(autouse=True)
def report(app: CloudQ) -> None:
    @app.periodic(crontab(hour=7, minute=0), name="morning")
    @app.task(name="report", queue="r")
    def report() -> None: ...


def test_schedules_show_when_they_run_and_whether(browser: Browser, app: CloudQ) -> None:
    Book(app).add(entry_from(NASTY, {"task": "report", "schedule": 60}))
    page = browser.get("/schedules")
    for text in ("morning", "report", ">on<", ">store<", ">code<", "in 1.0 min"):
        assert text in page, text
    assert NASTY not in page


def test_a_schedule_is_run_now(browser: Browser, app: CloudQ) -> None:
    assert "morning: one run was sent" in browser.said("run-now", "/schedules", name="morning")
    assert app.broker.depth("r").visible == 1


def test_a_schedule_is_paused_and_goes_on(browser: Browser, app: CloudQ) -> None:
    assert browser.said("pause-schedule", "/schedules", name="morning") == "morning is paused."
    assert Book(app).get("morning").paused
    assert ">paused<" in browser.get("/schedules")
    assert "morning goes on" in browser.said("resume-schedule", "/schedules", name="morning")
    assert not Book(app).get("morning").paused


@pytest.mark.parametrize("verb", ["run-now", "pause-schedule", "resume-schedule"])
def test_an_unknown_schedule_is_named_with_the_nearest(browser: Browser, verb: str) -> None:
    assert "did you mean 'morning'?" in browser.said(verb, "/schedules", name="mornin")
