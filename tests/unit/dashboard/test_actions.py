"""What a dashboard's buttons do."""

from typing import Any

import pytest
from dashboard_browser import Browser

from cloudq import CloudQ, group, states
from cloudq.errors import ServiceUnavailable
from cloudq.results.record import Record
from cloudq.testing import running_worker


def orders(app: CloudQ) -> list[tuple[str, tuple[str, ...] | None, dict[str, Any]]]:
    """What workers are asked to do."""
    return [(each.do, each.to, dict(each.args)) for each in app.control.boards.read().board.orders]


def test_a_queue_is_paused_and_goes_on(browser: Browser, app: CloudQ) -> None:
    assert "a is paused" in browser.said("pause-queue", queue="a")
    assert "a" in app.control.paused()
    assert "Resume" in browser.get("/queues/a")
    assert browser.said("resume-queue", "/queues/a", queue="a") == "a goes on."
    assert browser.said("resume-queue", "/queues/a", queue="a") == "a was not paused."
    assert "a" not in app.control.paused()


def test_a_worker_is_told_to_stop_and_to_grow(browser: Browser, app: CloudQ) -> None:
    assert "was told to stop" in browser.said("shutdown", "/workers/w1", worker="w1")
    assert "one task more" in browser.said("grow", "/workers/w1", worker="w1")
    assert "one task fewer" in browser.said("shrink", "/workers/w1", worker="w1")
    assert [each[0] for each in orders(app)] == ["shutdown", "pool_grow", "pool_shrink"]


@pytest.mark.parametrize("worker", ["w2", "nobody"])
def test_a_worker_that_vanished_is_told_nothing(browser: Browser, app: CloudQ, worker: str) -> None:
    assert "No live worker is called" in browser.said("shutdown", "/", worker=worker)
    assert orders(app) == []


def test_a_task_is_revoked(browser: Browser, app: CloudQ) -> None:
    waiting = app.send_task("add", queue="a")
    assert "is revoked" in browser.said("revoke", id=waiting.id)
    assert waiting.state == "REVOKED"
    store = app.need_store()
    store.progress(Record("runs", states.STARTED))
    assert "left alone: terminate stops it" in browser.said("revoke", "/tasks/runs", id="runs")
    assert "is revoked" in browser.said("revoke", id="runs", terminate="yes")
    store.finish(Record("done", states.SUCCESS, 1))
    assert browser.said("revoke", id="done") == "done is SUCCESS."


def test_a_workflow_is_revoked_whole(browser: Browser, app: CloudQ) -> None:
    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    sent = group(add.s(n, n) for n in range(3)).delay()
    assert "3 unfinished tasks" in browser.said("revoke-workflow", id=sent.id)
    assert {each.state for each in sent.results} == {"REVOKED"}
    assert "Nothing of that workflow is unfinished" in browser.said("revoke-workflow", id=sent.id)


def test_a_workflow_is_tried_again_from_what_failed(browser: Browser, app: CloudQ) -> None:
    fails = [True]

    @app.task(name="shaky")
    def shaky() -> str:
        if fails[0]:
            raise ValueError("no")
        return "yes"

    with running_worker(app, queues=["cloudq"]):
        sent = group(shaky.s(), shaky.s()).delay()
        failed = sent.results[0]
        with pytest.raises(ValueError, match="no"):
            failed.get(timeout=60)
        page = browser.get(f"/tasks/{failed.id}")
        assert "/do/retry" in page
        assert "ValueError: no" in page
        fails[0] = False
        assert failed.id in browser.said("retry", f"/tasks/{failed.id}", id=failed.id)
        assert app.AsyncResult(failed.id).get(timeout=60) == "yes"


def test_a_task_that_failed_alone_is_sent_anew_where_its_call_was_kept(browser: Browser, app: CloudQ) -> None:
    store = app.need_store()
    store.finish(
        Record("f-1", states.FAILURE, ValueError("no"), name="add", args=(1, 2), kwargs={}, queue="a")
    )
    store.finish(Record("f-2", states.FAILURE, ValueError("no"), name="add", queue="a"))
    assert "/do/retry" in browser.get("/tasks/f-1")
    assert "Sent anew, as" in browser.said("retry", "/tasks/f-1", id="f-1")
    assert app.broker.depth("a").visible == 4

    page = browser.get("/tasks/f-2")
    assert "/do/retry" not in page
    assert "its call was not kept" in page
    assert "was not kept" in browser.said("retry", id="f-2")
    assert "nothing in the workflow" in browser.said("retry", id="t-0")


def test_an_action_that_fails_says_why(
    browser: Browser, app: CloudQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    csrf = browser.csrf()

    def away(*_: Any, **__: Any) -> Any:
        raise ServiceUnavailable("the store is away")

    monkeypatch.setattr(app.control, "pause", away)
    response = browser.post("/do/pause-queue", {"csrf": csrf, "queue": "a", "back": "/"})
    assert "the store is away" in browser.get(response.headers["location"])
    assert "the store is away" not in browser.get("/")  # it is said once


def test_an_action_leads_back_to_this_dashboard_only(browser: Browser) -> None:
    fields = {"csrf": browser.csrf(), "queue": "a", "back": "https://evil.example/"}
    assert browser.post("/do/pause-queue", fields).headers["location"] == "/"
