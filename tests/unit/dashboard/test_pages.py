"""The dashboard's pages: what they show, and what they show of bad input and of what is away."""

import logging
import re
from typing import Any

import pytest
from dashboard_browser import NASTY, Browser, beat, ended

from cloudq import CloudQ, states
from cloudq.errors import ServiceUnavailable
from cloudq.results.record import Record
from cloudq.testing.clock import ManualClock


def test_queues_show_depth_workers_and_what_is_paused(browser: Browser) -> None:
    page = browser.get("/")
    for text in ('href="/queues/a"', ">3<", "paused", "1 worker<"):
        assert text in page
    assert "<svg" in page


def test_a_queue_that_cannot_be_asked_says_so(
    browser: Browser, app: CloudQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    depth = app.broker.depth

    def asked(queue: str) -> Any:
        if queue == "a":
            raise ServiceUnavailable("throttled <b>")
        return depth(queue)

    monkeypatch.setattr(app.broker, "depth", asked)
    page = browser.get("/")
    assert "throttled &lt;b&gt;" in page
    assert 'href="/queues/b"' in page


def test_one_queue_has_charts_and_its_workers(browser: Browser) -> None:
    page = browser.get("/queues/a")
    assert page.count("<figure") == 4
    assert 'href="/workers/w1"' in page
    assert "No queue &#39;nope&#39; is consumed" in browser.get("/queues/nope", 404)


def test_workers_show_who_lives_and_who_vanished(browser: Browser, app: CloudQ) -> None:
    page = browser.get("/workers")
    assert ">online<" in page
    assert ">lost<" in page
    assert "This worker has vanished" in browser.get("/workers/w2")
    assert 'href="/tasks/t-1"' in browser.get("/workers/w1")
    beat(app, "w3", app.clock.time() - 500.0, running=({"id": "t-9", "name": "gone", "since": 0.0},))
    assert ">worker lost<" in browser.get("/tasks")
    assert ">worker lost<" in browser.get("/tasks/t-9")
    assert "No worker of this name" in browser.get("/workers/%3Cb%3E", 404)


def test_tasks_show_those_that_run_and_those_that_have_ended(browser: Browser) -> None:
    page = browser.get("/tasks")
    assert 'href="/tasks/t-1"' in page
    assert "ValueError(&#39;&lt;b&gt;no&lt;/b&gt;&#39;)" in page
    assert browser.client.get("/tasks?id=t-0").headers["location"] == "/tasks/t-0"


@pytest.mark.parametrize(
    ("query", "fits"),
    [
        ("name=bo*", True), ("name=other", False), ("state=failure", True), ("state=SUCCESS", False),
        ("text=VALUEERROR", True), ("worker=w1", True), ("worker=w9", False), ("queue=x", False),
        ("since=5m", True), ("until=1h", False), ("root=t-0", True),
    ],
)  # fmt: skip
def test_filters_choose_tasks(browser: Browser, query: str, fits: bool) -> None:
    assert ('href="/tasks/t-0"' in browser.get(f"/tasks?{query}")) is fits


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("state=SUCCES", "did you mean SUCCESS?"),
        ("since=yesterday", "an age like 90, 15m, 2h or 3d"),
        ("since=1h&until=2h", "nothing can be between"),
        ("cursor=zzz", "is not one that query() has returned"),
        ("name=a%00b", "printable characters"),
        ("text=" + "x" * 600, "at most 500"),
    ],
)
def test_malformed_filters_are_named_beside_their_field(browser: Browser, query: str, said: str) -> None:
    assert said in browser.get(f"/tasks?{query}", 400)


def test_tasks_come_in_pages(browser: Browser, app: CloudQ) -> None:
    ended(app, *({"uuid": f"many-{n}", "name": "many"} for n in range(120)))
    seen: list[str] = []
    path = "/tasks?name=many"
    while path:
        page = browser.get(path)
        seen += re.findall(r'href="/tasks/(many-\d+)"', page)
        older = re.search(r'href="([^"]+)">Older<', page)
        path = older[1].replace("&amp;", "&") if older else ""
    assert seen == [f"many-{n}" for n in reversed(range(120))]


def test_html_in_names_arguments_and_results_is_text(browser: Browser, app: CloudQ) -> None:
    ended(
        app, uuid=NASTY, name=NASTY, args=NASTY, kwargs=NASTY, exception=NASTY, traceback=NASTY, queue=NASTY
    )
    beat(app, NASTY, app.clock.time(), queues=(NASTY,), running=({"id": NASTY, "name": NASTY, "since": 0.0},))
    app.need_store().finish(Record(NASTY, states.FAILURE, ValueError(NASTY), traceback=NASTY, name=NASTY))
    quoted = "%3Cscript%3Ealert(1)%3C%2Fscript%3E"
    for path in ("/", "/workers", "/tasks", f"/tasks/{quoted}", f"/workers/{quoted}", f"/queues/{quoted}",
                 f"/tasks?name={quoted}&text={quoted}&worker={quoted}"):  # fmt: skip
        page = browser.get(path)
        assert NASTY not in page, path
        assert "&lt;script&gt;" in page, path


def test_a_task_shows_its_record_its_runs_and_its_traceback(browser: Browser, app: CloudQ) -> None:
    @app.task(name="shop.add")
    def add(x: int, y: int) -> int:
        return x + y

    app.need_store().finish(
        Record(
            "t-5",
            states.SUCCESS,
            {"total": 8},
            name="shop.add",
            worker="w1",
            queue="a",
            runtime=0.5,
            args=(4, 4),
        )
    )
    page = browser.get("/tasks/t-5")
    for text in ("shop.add", "{&#39;total&#39;: 8}", "[4, 4]", "SUCCESS", "500 ms"):
        assert text in page
    assert "Nothing is known of this id" in browser.get("/tasks/never-sent", 404)
    assert "ValueError(&#39;&lt;b&gt;no&lt;/b&gt;&#39;)" in browser.get("/tasks/t-0")
    assert "Runs on" in browser.get("/tasks/t-1")


def test_sensitive_arguments_and_results_stay_hidden(browser: Browser, app: CloudQ) -> None:
    @app.task(name="pay", sensitive="card")
    def pay(card: str, amount: int) -> str:
        return card

    @app.task(name="vault", sensitive=True)
    def vault(card: str) -> str:
        return card

    store = app.need_store()
    for task_id, name in (("s-1", "pay"), ("s-2", "vault"), ("s-3", "unknown.here")):
        kwargs = {"password": "hush-pw"}
        store.finish(Record(task_id, states.SUCCESS, "done", name=name, args=("hush-card", 5), kwargs=kwargs))
    assert "hush" not in browser.get("/tasks/s-1")
    assert "done" in browser.get("/tasks/s-1")
    for task_id in ("s-2", "s-3"):
        page = browser.get(f"/tasks/{task_id}")
        assert "hush" not in page
        assert "&#39;done&#39;" not in page
    assert "does not know the task" in browser.get("/tasks/s-3")


def test_a_workflow_is_drawn_as_a_tree(browser: Browser, app: CloudQ) -> None:
    from cloudq import chain, group

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    result = chain(add.s(1, 1), group(add.s(n) for n in range(3)), add.si(5, 5)).delay()
    page = browser.get(f"/tasks/{result.id}", 404)  # nothing has run yet: only the plan is known
    assert "group of 3" in page
    assert page.count('class="node') == 6


def test_a_store_that_is_away_is_said_in_the_page(
    browser: Browser, app: CloudQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> Any:
        raise ServiceUnavailable("the store is away")

    backend = app.need_store().backend
    for name in ("read", "read_many", "keys"):
        monkeypatch.setattr(backend, name, away)
    page = browser.get("/")
    assert "the store is away" in page
    assert 'href="/queues/cloudq"' in page  # the broker answers
    assert "the store is away" in browser.get("/workers")
    assert "The history cannot be read" in browser.get("/tasks", 503)
    assert "the store is away" in browser.get("/tasks/t-0", 503)


def test_a_broker_that_is_away_is_said_in_the_page(
    browser: Browser, app: CloudQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> Any:
        raise ServiceUnavailable("the queue service is away")

    monkeypatch.setattr(app.broker, "depth", away)
    assert browser.get("/").count("the queue service is away") == 4


def test_a_surprise_is_logged_with_its_trace_and_shown_without(
    browser: Browser, app: CloudQ, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def surprise(*_: Any, **__: Any) -> Any:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(app.history, "query", surprise)
    with caplog.at_level(logging.ERROR):
        page = browser.get("/tasks", 500)
    assert "secret detail" not in page
    assert "Traceback" not in page
    assert "log says more about error" in page
    assert "secret detail" in caplog.text
    assert browser.client.get("/tasks").headers["x-frame-options"] == "DENY"


def test_a_store_that_hangs_is_said_after_a_while(app: CloudQ, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    released = threading.Event()
    monkeypatch.setattr(app.history, "query", lambda *_, **__: released.wait(60))
    try:
        page = Browser(app, patience=0.3).get("/tasks", 503)
        assert "no answer within 0.3 seconds" in page
    finally:
        released.set()


def test_rates_come_from_what_workers_count(browser: Browser, app: CloudQ, clock: ManualClock) -> None:
    browser.get("/")
    clock.advance(10.0)
    beat(app, "w1", clock.time(), started=clock.time() - 70.0, stats={"queues": {"a": {"received": 150}}})
    page = browser.get("/")
    assert 'data-l="Per second" class="n">5<' in page


def test_pages_live_below_a_mount(app: CloudQ) -> None:
    from starlette.applications import Starlette
    from starlette.routing import Mount

    from cloudq.dashboard import make_app

    browser = Browser(app, mounted=Starlette(routes=[Mount("/ops/cloudq", make_app(app))]))
    first = browser.client.get("/ops/cloudq/")
    assert "Path=/ops/cloudq; " in first.headers["set-cookie"]
    page = first.text
    assert 'href="/ops/cloudq/queues/a"' in page
    assert 'href="/ops/cloudq/static/style.css?v=' in page
    assert browser.client.get("/ops/cloudq/static/style.css").status_code == 200
    assert "t-0" in browser.get("/ops/cloudq/tasks")
    response = browser.post(
        "/ops/cloudq/do/pause-queue",
        {"csrf": browser.csrf("/ops/cloudq/"), "back": "/ops/cloudq/queues/a", "queue": "a"},
    )
    assert response.headers["location"] == "/ops/cloudq/queues/a"
    assert "a" in app.control.paused()
