"""Priorities by sibling queues: where a call goes, and in which order a worker takes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from stage import Stage
from typer.testing import CliRunner

from cloudq import CloudQ
from cloudq.cli.main import cli
from cloudq.errors import ImproperlyConfigured
from cloudq.execution.call import NoWatch
from cloudq.priorities import base_of, families, queue_for, siblings
from cloudq.worker.credit import Credit
from cloudq.worker.intake import Intake, with_siblings
from cloudq.worker.worker import Worker

THREE = {"mail": ["-high", "", "-low"]}


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    stage.app.conf.task_queue_priorities = THREE
    yield stage
    stage.app.close()


# --- names -----------------------------------------------------------------------------------------


def test_siblings_are_named_in_full_or_by_what_is_put_behind() -> None:
    assert siblings(THREE, "mail") == ("mail-high", "mail", "mail-low")
    assert siblings({"mail": ["urgent", "mail"]}, "mail") == ("urgent", "mail")
    assert siblings({"o.fifo": ["-high", ""]}, "o.fifo") == ("o-high.fifo", "o.fifo")
    assert siblings(THREE, "other") == ("other",)
    assert families(THREE, ["a", "mail", "mail-low"]) == ["a", "mail-high", "mail", "mail-low"]
    assert [base_of(THREE, each) for each in ("mail-low", "mail", "other")] == ["mail", "mail", "other"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("mail-high", "is a list of queues, highest first"),
        ([""], "2 to 10 different queues"),
        (["", "mail"], "2 to 10 different queues"),
        (["-high", "-low"], "'mail' itself is missing"),
        (["-high", "", "x.fifo"], "'x.fifo' is of the other kind"),
        ([3, ""], "is a list of queues"),
    ],
)
def test_siblings_that_cannot_be_meant_are_refused(given: Any, said: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=said):
        siblings({"mail": given}, "mail")


def test_ten_priorities_are_spread_over_the_siblings() -> None:
    assert [queue_for(THREE, "mail", each) for each in range(10)] == (
        ["mail-low"] * 4 + ["mail"] * 3 + ["mail-high"] * 3
    )
    two = {"q": ["-high", ""]}
    assert [queue_for(two, "q", each) for each in range(10)] == ["q"] * 5 + ["q-high"] * 5
    ten = {"q": ["", *(f"-{n}" for n in range(8, -1, -1))]}
    assert len({queue_for(ten, "q", each) for each in range(10)}) == 10


# --- calls -----------------------------------------------------------------------------------------


def sent_to(stage: Stage, *queues: str) -> list[int]:
    return [stage.app.broker.depth(each).total for each in queues]


def test_a_call_goes_to_the_sibling_of_its_priority(stage: Stage) -> None:
    @stage.app.task(name="send", queue="mail")
    def send() -> None: ...

    @stage.app.task(name="warn", queue="mail", priority=9)
    def warn() -> None: ...

    send.delay()
    send.apply_async(priority=9)
    send.apply_async(priority=0)
    warn.delay()
    warn.apply_async(priority=0)
    send.apply_async(queue="mail-low")
    assert sent_to(stage, "mail-high", "mail", "mail-low") == [2, 1, 3]


def test_routes_and_a_default_may_give_priorities(stage: Stage) -> None:
    stage.app.conf.task_routes = {"report.*": {"queue": "mail", "priority": 1}}
    stage.app.conf.task_default_priority = 9
    stage.app.send_task("report.daily")
    stage.app.send_task("other", queue="mail")
    stage.app.send_task("other", queue="plain")
    assert sent_to(stage, "mail-high", "mail-low", "plain") == [1, 1, 1]


@pytest.mark.parametrize("priority", [10, -1, 1.5, True, "high"])
def test_what_is_no_priority_is_refused(stage: Stage, priority: Any) -> None:
    with pytest.raises(ValueError, match="priority is a whole number from 0 to 9"):
        stage.app.send_task("send", queue="mail", priority=priority)
    with pytest.raises(ImproperlyConfigured, match="priority is 0 to 9"):
        stage.app.task(name="bad", priority=priority)(lambda: None)


def test_a_priority_that_would_do_nothing_is_refused_with_what_to_set(stage: Stage) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"task_queue_priorities = \{'plain': "):
        stage.app.send_task("send", queue="plain", priority=5)


def test_a_retry_stays_in_its_queue_unless_it_asks_for_another_priority(stage: Stage) -> None:
    @stage.app.task(name="send", queue="mail", bind=True, max_retries=5, default_retry_delay=0)
    def send(self: Any) -> None:
        if self.request.retries == 0:
            self.retry()
        if self.request.retries == 1:
            self.retry(priority=0)

    send.apply_async(priority=9)
    worker = stage.app.lifecycle("w1")
    for queue in ("mail-high", "mail-high", "mail-low"):
        [delivery] = stage.receive(queue)
        stage.carry_out(delivery, worker.run(delivery, NoWatch()))
    assert sent_to(stage, "mail-high", "mail", "mail-low") == [0, 0, 0]


# --- workers ---------------------------------------------------------------------------------------


def test_who_consumes_a_queue_consumes_its_siblings_urgent_ones_first() -> None:
    fair = with_siblings([Intake("a"), Intake("mail")], THREE, "fair")
    assert [(each.queue, each.weight) for each in fair] == [
        ("a", None),
        ("mail-high", 1.0),
        ("mail", 0.25),
        ("mail-low", 0.0625),
    ]
    strict = with_siblings([Intake("mail")], THREE, "strict")
    assert [(each.queue, each.weight) for each in strict] == [
        ("mail-high", None),
        ("mail", None),
        ("mail-low", None),
    ]
    own = with_siblings([Intake("mail-low", 1), Intake("mail", weight=2.0)], THREE, "weighted")
    assert [(each.queue, each.most, each.weight) for each in own] == [
        ("mail-low", 1, None),
        ("mail-high", None, 2.0),
        ("mail", None, 0.5),
    ]


def test_a_queues_concurrency_is_that_of_its_siblings_together(stage: Stage) -> None:
    worker = Worker(stage.app, ["mail=4"], pool="threads")
    assert (worker.queues, worker.concurrency) == (["mail-high", "mail", "mail-low"], 4)

    credit = Credit(100)
    high, low = credit.lane(4.0, 3, "mail"), credit.lane(1.0, 3, "mail")
    other = credit.lane(1.0, 3)
    first = high.ask(2)
    assert first is not None
    assert (first.count, low.own_room(), other.own_room()) == (2, 1, 3)
    high.answer(first, 2)
    assert (high.own_room(), low.own_room()) == (1, 1)


def test_of_busy_siblings_the_urgent_get_most_and_the_others_something() -> None:
    credit = Credit(8)
    lanes = [credit.lane(4.0**-rank, None, "mail") for rank in range(3)]
    held: list[int] = []
    served = [0, 0, 0]
    for _ in range(400):
        for number, lane in enumerate(lanes):
            ask = lane.ask(1)
            if ask is not None:
                lane.answer(ask, 1)
                served[number] += 1
                held.append(number)
        if held:
            lanes[held.pop(0)].give()
    assert served[0] > 2 * served[1] > 0
    assert served[1] > served[2] > 0


# --- creating ----------------------------------------------------------------------------------------


def test_creating_a_queue_creates_its_siblings_with_one_dead_letter_queue(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop_priorities.py").write_text(
        "from cloudq import CloudQ\n"
        f"app = CloudQ('shop', broker='sqlite:///{tmp_path}/q.db', backend='disabled://',"
        f" task_queue_priorities={THREE!r})\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    done = CliRunner().invoke(cli, ["queues", "create", "mail", "plain", "-A", "shop_priorities:app"])
    assert done.exit_code == 0, done.output
    with CloudQ("look", broker=f"sqlite:///{tmp_path}/q.db", backend="disabled://") as app:
        dead = {
            each: app.broker.describe(each).dead_letter_queue for each in ("mail-high", "mail", "mail-low")
        }
        assert set(dead.values()) == {"mail-dlq"}
        assert app.broker.describe("plain").dead_letter_queue == "plain-dlq"
