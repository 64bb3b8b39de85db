"""Celery's signals: who is called, with what, and in which process."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudq import CloudQ, Reject, signals
from cloudq.brokers.base import Message
from cloudq.errors import CloudQError
from cloudq.hooks import EVERYWHERE, POINTS, RUNS_EVERYWHERE
from cloudq.signals import Signal
from cloudq.testing import sandbox
from cloudq.testing.box import Sandbox
from cloudq.testing.workers import running_worker

ALL = [getattr(signals, name) for name in signals.__all__]


class Ear:
    """Listens to everything."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, signal: Signal, **named: Any) -> None:
        self.heard.append((signal.name, named))

    def names(self) -> list[str]:
        return [name for name, _ in self.heard]

    def of(self, name: str) -> dict[str, Any]:
        [found] = [named for each, named in self.heard if each == name]
        return found


@pytest.fixture(autouse=True)
def _nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else this process has imported may be connected."""
    for each in ALL:
        monkeypatch.setattr(each, "_receivers", [])
    for point in list(EVERYWHERE):
        monkeypatch.delitem(EVERYWHERE, point)
    for point in list(RUNS_EVERYWHERE):
        monkeypatch.delitem(RUNS_EVERYWHERE, point)


@pytest.fixture
def ear() -> Iterator[Ear]:
    ear = Ear()
    for each in ALL:
        each.connect(ear)
    yield ear
    for each in ALL:
        assert each.disconnect(ear)
        assert not each.has_listeners()


@pytest.fixture
def box() -> Iterator[Sandbox]:
    app = CloudQ("bench")

    @app.task(name="add", throws=(ValueError,))
    def add(x: int, y: int) -> int:
        if y < 0:
            raise ValueError("negative")
        return x + y

    @app.task(name="again", bind=True, max_retries=1, throws=(CloudQError,))
    def again(self: Any) -> None:
        self.retry(countdown=5)

    @app.task(name="no")
    def no() -> None:
        raise Reject("bad")

    with sandbox(app) as box:
        yield box


def test_every_signal_stands_on_a_hook_and_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text("utf-8")
    for name in signals.__all__:
        assert getattr(signals, name).name == name
        assert getattr(signals, name)._point in (*POINTS, None)
        assert re.search(rf"\b{name}\b", page), name


def test_the_life_of_a_task_that_succeeds(box: Sandbox, ear: Ear) -> None:
    task = box.app.tasks["add"]
    result = task.apply_async((1,), {"y": 2}, headers={"tenant": "a"})
    box.drain()

    assert ear.names() == [
        "before_task_publish", "after_task_publish", "task_received", "task_prerun", "task_postrun", "task_success",
    ]  # fmt: skip
    sent = ear.of("before_task_publish")
    assert (sent["sender"], sent["body"], sent["routing_key"]) == ("add", ([1], {"y": 2}, {}), "cloudq")
    assert (sent["headers"]["id"], sent["headers"]["tenant"]) == (result.id, "a")
    assert ear.of("task_prerun") == {
        "sender": task, "task_id": result.id, "task": task, "args": [1], "kwargs": {"y": 2}
    }  # fmt: skip
    after = ear.of("task_postrun")
    assert (after["retval"], after["state"]) == (3, "SUCCESS")
    assert ear.of("task_success") == {"sender": task, "result": 3}


def test_one_that_fails_says_how(box: Sandbox, ear: Ear) -> None:
    result = box.app.send_task("add", (1, -1))
    box.drain()

    named = ear.of("task_failure")
    assert (named["task_id"], str(named["exception"]), named["args"]) == (result.id, "negative", [1, -1])
    assert "raise ValueError" in named["einfo"].traceback
    assert named["traceback"] is named["exception"].__traceback__
    assert ear.of("task_postrun")["state"] == "FAILURE"
    assert "task_success" not in ear.names()


def test_retries_revocations_and_messages_that_nobody_can_run(box: Sandbox, ear: Ear) -> None:
    box.app.send_task("again")
    box.drain()
    assert ear.names().count("task_retry") == 1
    assert ear.of("task_retry")["request"].task == "again"

    revoked = box.app.send_task("add", (1, 2))
    revoked.revoke()
    box.app.send_task("add", (1, 2), expires=5)
    box.advance(10)
    box.app.send_task("nosuch", task_id="t-9")
    box.app.broker.send("cloudq", [Message("not json")])
    box.drain()

    found = [named for name, named in ear.heard if name == "task_revoked"]
    assert [(each["expired"], each["terminated"]) for each in found] == [(False, False), (True, False)]
    unknown = ear.of("task_unknown")
    assert (unknown["name"], unknown["id"]) == ("nosuch", "t-9")
    assert "undecodable" in ear.of("task_rejected")["exc"]


def test_a_receiver_may_want_one_sender_only(box: Sandbox) -> None:
    heard: list[str] = []
    task = box.app.tasks["add"]
    by_task = signals.task_success.connect(lambda **_: heard.append("task"), sender=task)
    by_name = signals.task_success.connect(lambda **_: heard.append("name"), sender="add")
    other = signals.task_success.connect(lambda **_: heard.append("other"), sender="sub")
    try:
        task.delay(1, 2)
        box.drain()
        assert heard == ["task", "name"]
    finally:
        assert signals.task_success.disconnect(by_task, sender=task)
        assert signals.task_success.disconnect(by_name, sender="add")
        assert signals.task_success.disconnect(other, sender="sub")
        assert not signals.task_success.disconnect(other)


def test_a_receiver_is_connected_once_and_what_it_raises_is_logged(
    box: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[int] = []

    @signals.task_success.connect(dispatch_uid="mine")
    def first(result: int, **_: Any) -> None:
        heard.append(result)
        raise RuntimeError("broken receiver")

    signals.task_success.connect(lambda **_: heard.append(-1), dispatch_uid="mine")
    try:
        result = box.app.send_task("add", (1, 2))
        box.drain()
        assert (heard, result.get(timeout=1)) == ([3], 3)
        assert "broken receiver" in caplog.text
        with pytest.raises(TypeError, match="use sender="):
            signals.task_success.connect("add")  # type: ignore[arg-type]
    finally:
        assert signals.task_success.disconnect(dispatch_uid="mine")


def test_nobody_connected_costs_a_look_in_a_dictionary() -> None:
    assert not EVERYWHERE
    assert not RUNS_EVERYWHERE


def test_who_listens_to_processes_costs_no_run_a_look() -> None:
    def heard(**_: Any) -> None:
        raise AssertionError("no process was started")

    signals.worker_process_init.connect(heard)
    assert EVERYWHERE
    assert not RUNS_EVERYWHERE
    signals.task_prerun.connect(heard)
    assert list(RUNS_EVERYWHERE) == ["task_prerun"]
    assert signals.task_prerun.disconnect(heard)
    assert signals.worker_process_init.disconnect(heard)
    assert not EVERYWHERE
    assert not RUNS_EVERYWHERE


def test_the_life_of_a_worker(ear: Ear) -> None:
    with CloudQ("live", broker="memory://", backend="memory://") as app, running_worker(app) as worker:
        pass
    told = [name for name in ear.names() if name.startswith(("worker", "heartbeat"))]
    assert list(dict.fromkeys(told)) == [  # a second sign of life may fall into its short life
        "worker_init",
        "heartbeat_sent",
        "worker_ready",
        "worker_shutting_down",
        "worker_shutdown",
    ]
    assert ear.of("worker_ready")["sender"] is worker
    assert ear.of("worker_shutting_down")["sig"] == "the test is over"


def test_the_page_s_example(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text("utf-8")
    [code] = re.findall(r"<!-- run: signals -->\n```python\n(.*?)```", page, re.DOTALL)
    space: dict[str, Any] = {"__name__": "page"}
    exec(code, space)
    try:
        first = space["app"].send_task("page.divide", (6, 3))
        with sandbox(space["app"]) as box:
            good, bad = space["divide"].delay(6, 3), space["divide"].delay(1, 0)
            box.drain()
        assert space["seen"] == [good.id, 2.0, bad.id, "ZeroDivisionError"]
        assert not first.ready()
    finally:
        signals.task_success.disconnect(space["done"], sender=space["divide"])
        signals.task_failure.disconnect(space["failed"])
