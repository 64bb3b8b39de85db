"""Dead letters in the dashboard: read, sent back, edited, deleted; and what is hidden in them."""

import html
import json
import re
from typing import Any

import pytest
from dashboard_browser import NASTY, Browser, bury

from cloudq import CloudQ
from cloudq.brokers.base import Delivery
from cloudq.dashboard.concealed import Concealer
from cloudq.dashboard.forms import BadInput
from cloudq.errors import ServiceUnavailable


def message(task: str = "shop.add", task_id: str = "T1", **more: Any) -> str:
    return json.dumps({"v": 1, "id": task_id, "task": task, "args": [1, 2], "kwargs": {}, **more})


def received(app: CloudQ, queue: str = "d") -> list[Delivery]:
    return list(app.broker.receive(queue, 10, 0.0, 30.0))


@pytest.fixture(autouse=True)
def add(app: CloudQ) -> None:
    @app.task(name="shop.add", queue="d")
    def add(x: int, y: int) -> int:
        return x + y


def test_dead_letters_are_counted_and_shown_with_their_reasons(browser: Browser, app: CloudQ) -> None:
    bury(app, message())
    bury(app, "garbage", "undecodable")
    assert re.search(r'<b class="bad">2</b>', browser.get("/dead"))
    assert 'href="/dead/d">2<' in browser.get("/")
    page = browser.get("/dead/d")
    for text in ("shop.add", "unknown_task", "undecodable", "because of unknown_task", "unreadable"):
        assert text in page
    page = browser.get("/dead/d?reason=undecodable")
    assert "shop.add" not in page
    assert "Nothing fits" in browser.get("/dead/d?task=nope")
    assert "No dead letters" in browser.get("/dead/a")
    assert app.broker.depth("d-dlq").visible == 2  # they were given back


def test_one_is_read_whole(browser: Browser, app: CloudQ) -> None:
    message_id = bury(app, message(kwargs={"note": NASTY}))
    page = browser.get(f"/letter?queue=d&id={message_id}")
    assert NASTY not in page
    assert '"note": "<script>' in html.unescape(page)
    assert "There is no dead letter" in browser.get("/letter?queue=d&id=nope", 404)
    assert "by its queue and its id" in browser.get("/letter?queue=d", 400)


def test_the_chosen_ones_are_sent_back(browser: Browser, app: CloudQ) -> None:
    chosen = [bury(app, message(task_id=f"T{n}")) for n in range(3)]
    assert browser.said("redrive", "/dead/d", queue="d", id=chosen[:2]) == "2 sent back."
    assert {json.loads(each.body)["id"] for each in received(app)} == {"T0", "T1"}
    assert "1 of 2 sent back" in browser.said("redrive", "/dead/d", queue="d", id=chosen[1:])
    assert "Choose at least one" in browser.said("redrive", "/", queue="d")
    assert app.broker.depth("d-dlq").total == 0


def test_the_button_of_a_row_sends_that_one_whatever_is_chosen(browser: Browser, app: CloudQ) -> None:
    one, other = bury(app, message(task_id="T1")), bury(app, message(task_id="T2"))
    assert browser.said("redrive", "/dead/d", queue="d", id=[other], only=one) == "1 sent back."
    assert [json.loads(each.body)["id"] for each in received(app)] == ["T1"]


def test_all_that_fit_are_sent_back(browser: Browser, app: CloudQ) -> None:
    for n in range(12):
        bury(app, message(task_id=f"T{n}"), "unknown_task" if n % 2 else "expired")
    assert browser.said("redrive-fitting", "/dead/d", queue="d", reason="expired", task="") == "6 sent back."
    assert app.broker.depth("d-dlq").visible == 6


def test_the_chosen_ones_are_deleted_and_never_all(browser: Browser, app: CloudQ) -> None:
    chosen = [bury(app, message(task_id=f"T{n}")) for n in range(2)]
    assert "Choose at least one" in browser.said("delete", "/dead/d", queue="d")
    assert browser.said("delete", "/dead/d", queue="d", id=chosen[:1]) == "1 deleted."
    assert app.broker.depth("d-dlq").visible == 1


def test_one_is_edited_and_sent_back(browser: Browser, app: CloudQ) -> None:
    message_id = bury(app, message("shop.ad"))
    page = f"/letter?queue=d&id={message_id}"
    shown = html.unescape(re.search(r"<textarea[^>]*>(.*?)</textarea>", browser.get(page), re.S)[1])  # type: ignore[index]
    body = shown.replace('"shop.ad"', '"shop.add"')
    assert "was changed and sent back" in browser.said(
        "redrive-edited", page, back="/dead/d", queue="d", id=message_id, body=body
    )
    [found] = received(app)
    assert json.loads(found.body) == json.loads(message())


def test_an_edit_that_cannot_be_meant_is_shown_again(browser: Browser, app: CloudQ) -> None:
    message_id = bury(app, message())
    page = f"/letter?queue=d&id={message_id}"
    for body, said in (("{", "is not JSON"), ("[]", "at least"), ('{"task": ""}', "at least")):
        fields = {"csrf": browser.csrf(page), "queue": "d", "id": message_id, "body": body + " "}
        text = browser.post("/do/redrive-edited", fields, 400).text
        assert said in text
        assert html.escape(body).replace("&#x27;", "'").replace("&quot;", "&#34;") + " </textarea>" in text
    assert app.broker.depth("d-dlq").visible == 1
    fields = {"csrf": browser.csrf(page), "queue": "d", "id": "gone", "body": message()}
    assert "There is no dead letter" in browser.post("/do/redrive-edited", fields, 400).text


def test_sensitive_arguments_of_dead_letters_stay_hidden_and_are_kept(browser: Browser, app: CloudQ) -> None:
    @app.task(name="pay", sensitive="card")
    def pay(card: str, amount: int) -> None: ...

    step = {"task": "pay", "args": ["hush-chain", 7], "kwargs": {}, "options": {}}
    body = message("pay", args=["hush-card", 5], kwargs={"password": "hush-pw"}, chain=[step])
    message_id = bury(app, body)
    page = f"/letter?queue=d&id={message_id}"
    text = browser.get(page)
    assert "hush" not in text
    assert "hush" not in browser.get("/dead/d")
    shown = html.unescape(re.search(r"<textarea[^>]*>(.*?)</textarea>", text, re.S)[1])  # type: ignore[index]
    edited = json.loads(shown)
    assert edited["args"] == ["***", 5]
    edited["args"][1] = 6
    said = browser.said(
        "redrive-edited", page, back="/dead/d", queue="d", id=message_id, body=json.dumps(edited)
    )
    assert "sent back" in said
    [found] = received(app)
    expected = json.loads(body)
    expected["args"][1] = 6
    assert json.loads(found.body) == expected


def test_arguments_of_unknown_tasks_are_hidden(browser: Browser, app: CloudQ) -> None:
    message_id = bury(app, message("who.knows", args=["hush"], kwargs={"card": "hush"}))
    text = browser.get(f"/letter?queue=d&id={message_id}")
    assert "hush" not in text
    assert "Arguments of who.knows are hidden" in text


def test_a_signed_message_is_shown_and_not_edited(browser: Browser, app: CloudQ) -> None:
    message_id = bury(app, json.dumps({"signed": message(), "sig": "x", "kid": "k"}))
    text = browser.get(f"/letter?queue=d&id={message_id}")
    assert "<textarea" not in text
    assert "it is signed" in text
    fields = {"csrf": browser.csrf("/"), "queue": "d", "id": message_id, "body": message()}
    assert "is signed: changed it would be refused" in browser.post("/do/redrive-edited", fields, 400).text


def test_hidden_values_cannot_be_sent_as_stars(app: CloudQ) -> None:
    concealer = Concealer(app.tasks, ["password"])
    original = message(kwargs={"password": "secret", "note": "a"})
    shown = json.loads(concealer.show(original).text)
    shown["kwargs"]["note"] = "b"
    assert json.loads(concealer.restore(original, json.dumps(shown)))["kwargs"] == {
        "password": "secret",
        "note": "b",
    }
    shown["kwargs"]["password"] = "new"
    assert json.loads(concealer.restore(original, json.dumps(shown)))["kwargs"]["password"] == "new"
    shown["kwargs"] = {"passwort": "***"}
    with pytest.raises(BadInput, match="hidden values"):
        concealer.restore(original, json.dumps(shown))


@pytest.mark.parametrize(
    "text",
    ["", "x", "[1]", "3", '{"signed": "x"}', '{"task": 3}', "[" * 100_000, '{"task":"shop.add","args":3}'],
)
def test_anything_can_be_shown(app: CloudQ, text: str) -> None:
    assert isinstance(Concealer(app.tasks, ["*"]).show(text).text, str)


def test_a_read_only_dashboard_shows_letters_without_buttons(app: CloudQ) -> None:
    message_id = bury(app, message())
    browser = Browser(app, read_only=True)
    for page in ("/dead/d", f"/letter?queue=d&id={message_id}", "/schedules"):
        text = browser.get(page)
        assert "/do/" not in text
        assert "<textarea" not in text


def test_dead_letters_that_cannot_be_read_are_said(
    browser: Browser, app: CloudQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> Any:
        raise ServiceUnavailable("the queue service is away")

    monkeypatch.setattr(app.broker, "receive", away)
    assert "the queue service is away" in browser.get("/dead/d", 503)
    assert "the queue service is away" in browser.get("/letter?queue=d&id=x", 503)
