"""Workflows drawn, cancelled and tried again; durable steps."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cloudq import CloudQ, chain, chord, group
from cloudq.cli.main import cli
from cloudq.errors import ChordError, CloudQError, ImproperlyConfigured, TaskRevokedError
from cloudq.execution.call import NoWatch
from cloudq.testing import Sandbox, sandbox


class Bench:
    def __init__(self, app: CloudQ, box: Sandbox) -> None:
        self.app = app
        self.box = box
        self.broken: set[Any] = set()
        self.ran: list[Any] = []

        @app.task(name="add")
        def add(x: Any, y: Any) -> Any:
            self.ran.append(("add", x, y))
            return x + y

        @app.task(name="total")
        def total(values: Any) -> Any:
            self.ran.append(("total", values))
            return sum(values)

        @app.task(name="may")
        def may(x: Any, *rest: Any) -> Any:
            self.ran.append(("may", x))
            if x in self.broken:
                raise ValueError(f"{x} is broken")
            return x

        self.add, self.total, self.may = add, total, may


@pytest.fixture
def bench() -> Iterator[Bench]:
    app = CloudQ("beyond", broker="memory://", backend="memory://")
    with sandbox(app) as box:
        yield Bench(app, box)
    app.close()


# --- drawing ----------------------------------------------------------------------------------------


def test_a_workflow_is_drawn_with_its_states(bench: Bench) -> None:
    bench.broken = {2}
    made = chain(bench.add.s(0, 1), group(bench.may.si(1), bench.may.si(2)), bench.total.s())()
    before = str(made.graph()).splitlines()
    bench.box.drain()
    after = str(made.graph()).splitlines()

    assert [line.split()[:2] for line in before] == [
        ["PENDING", "add"], ["PENDING", "group"], ["-", "PENDING"], ["-", "PENDING"], ["PENDING", "total"],
    ]  # fmt: skip
    assert after[0].startswith(f"SUCCESS  add {made.parent.parent.id}")
    assert after[1].startswith("FAILURE  group of 2")
    assert after[2].strip().startswith("- SUCCESS  may")
    assert "ValueError: 2 is broken" in after[3]
    assert after[4].startswith(f"FAILURE  total {made.id}")
    assert "ChordError: Dependency" in after[4]


def test_any_id_of_it_leads_to_the_whole_workflow(bench: Bench) -> None:
    made = chord([bench.may.s(n) | bench.add.s(1) for n in range(2)], bench.total.s())()
    grouped = group(bench.may.s(1), bench.may.s(2))()
    named = chain(bench.may.s(1), bench.may.s().set(task_id="mine"))()
    bench.box.drain()

    whole = made.graph().text()
    assert whole.count("\n") == 5
    assert bench.app.tree(made.parent[0].id).text() == whole
    assert bench.app.tree(made.parent.id).text() == whole
    assert grouped.graph().text().count("may") == 2
    assert bench.app.tree("mine").text() == bench.app.tree(named.parent.id).text()
    assert bench.app.tree("mine").text().count("\n") == 1
    assert "PENDING" in bench.app.tree("nobody").text()


def test_the_pictures(bench: Bench) -> None:
    made = chain(bench.add.s(0, 1), group(bench.add.s(1), bench.add.s(2)), bench.total.s())()
    bench.box.drain()

    dot = made.graph().dot()
    assert dot.startswith("digraph workflow {")
    assert dot.count("palegreen") == 5
    # add -> group -> two members -> total
    assert dot.count(" -> ") == 5
    mermaid = made.graph().mermaid()
    assert mermaid.startswith("flowchart LR")
    assert mermaid.count(" --> ") == 5
    assert mermaid.count(":::success") == 5


def test_a_large_group_is_counted(bench: Bench) -> None:
    bench.broken = {70}
    made = group(bench.may.s(n) for n in range(100))()
    bench.box.drain()

    text = made.graph().text()
    assert "group of 100" in text
    assert "... and 79 SUCCESS" in text
    assert "70 is broken" in text


def test_what_a_task_sent_by_itself_is_drawn_under_it(bench: Bench) -> None:
    @bench.app.task(name="starts", bind=True)
    def starts(self: Any) -> None:
        bench.add.delay(1, 1)
        group(bench.add.s(2, 2), bench.add.s(3, 3))()

    made = starts.apply_async(link=bench.may.s())
    bench.box.drain()

    text = made.graph().text()
    assert text.count("    > SUCCESS") == 3
    assert text.count("- SUCCESS") == 2


def test_an_eager_workflow_is_drawn_too(bench: Bench) -> None:
    text = chain(bench.add.s(0, 1), bench.add.s(1)).apply().graph().text()
    assert text.count("SUCCESS") == 2


def test_without_a_memory_of_workflows_what_has_run_is_found(bench: Bench) -> None:
    bench.app.conf.task_remember_workflows = False
    made = chain(bench.add.s(0, 1), bench.add.s(1), bench.add.s(1))()
    bench.box.drain()

    assert made.parent.parent.graph().text().count("SUCCESS") == 3


# --- cancelling -------------------------------------------------------------------------------------


def test_revoking_a_tree_stops_what_has_not_begun(bench: Bench) -> None:
    made = chain(bench.add.s(0, 1), group(bench.add.s(1), bench.add.s(2)), bench.total.s())()
    made.revoke(tree=True)
    bench.box.clock.advance(60)
    bench.box.drain()

    with pytest.raises(TaskRevokedError):
        made.get(timeout=0)
    assert bench.app.tree(made.id).text().count("REVOKED") == 4
    assert ("total", [2, 3]) not in bench.ran


def test_revoking_half_way_keeps_what_has_ended(bench: Bench) -> None:
    made = chain(bench.add.s(0, 1), bench.add.s(1).set(countdown=100), bench.add.s(1))()
    bench.box.drain(jump=False)
    made.revoke(tree=True)
    bench.box.drain()

    assert made.parent.parent.get(timeout=0) == 1
    assert [made.parent.state, made.state] == ["REVOKED", "REVOKED"]
    assert ("add", 2, 1) not in bench.ran


# --- trying again -----------------------------------------------------------------------------------


def test_a_chain_is_tried_again_from_the_failed_step(bench: Bench) -> None:
    bench.broken = {3}
    made = chain(bench.add.s(1, 2), bench.may.s(), bench.add.s(10), bench.add.s(100))()
    bench.box.drain()
    assert made.state == "FAILURE"

    bench.broken = set()
    [again] = bench.app.retry_workflow(made.id)
    bench.box.drain()

    assert again.id == made.parent.parent.id
    assert bench.app.AsyncResult(made.id).get(timeout=0) == 113
    assert [each[0] for each in bench.ran] == ["add", "may", "may", "add", "add"]


def test_a_chord_is_tried_again_from_its_failed_members(bench: Bench) -> None:
    bench.broken = {1, 3}
    made = chord([bench.may.s(n) for n in range(5)], bench.total.s() | bench.add.s(1)).on_error(
        bench.may.si("told")
    )()
    bench.box.drain()
    with pytest.raises(ChordError):
        made.get(timeout=0)

    bench.broken = {3}  # one of them fails again: the body still does not run
    assert len(bench.app.retry_workflow(made.parent.id)) == 2
    bench.box.drain()
    again = bench.app.AsyncResult(made.id)
    with pytest.raises(ChordError, match=made.parent.parent[3].id):
        again.get(timeout=0)

    bench.broken = set()
    assert [each.id for each in bench.app.retry_workflow(made.id)] == [made.parent.parent[3].id]
    bench.box.drain()
    assert bench.app.AsyncResult(made.id).get(timeout=0) == 11
    runs = [each[1] for each in bench.ran if each[0] == "may"]
    assert [runs.count(n) for n in range(5)] == [1, 2, 1, 3, 1]
    assert [each for each in bench.ran if each[0] == "total"] == [("total", [0, 1, 2, 3, 4])]


def test_nested_workflows_are_tried_again_from_within(bench: Bench) -> None:
    bench.broken = {7}
    made = chord(
        [
            chord([bench.may.s(7) | bench.add.s(1), bench.may.s(2)], bench.total.s()) | bench.add.s(1),
            bench.may.s(5),
        ],
        bench.total.s(),
    )()
    bench.box.drain()
    assert made.state == "FAILURE"

    bench.broken = set()
    assert len(bench.app.retry_workflow(made.id)) == 1
    bench.box.drain()

    assert bench.app.AsyncResult(made.id).get(timeout=0) == 16
    assert [each[1] for each in bench.ran if each[0] == "may"].count(2) == 1


def test_a_retry_may_be_asked_for_twice(bench: Bench) -> None:
    bench.broken = {1}
    made = chord([bench.may.s(1), bench.may.s(2)], bench.total.s())()
    bench.box.drain()
    bench.broken = set()
    assert bench.app.retry_workflow(made.id) == bench.app.retry_workflow(made.id)
    bench.box.drain()

    assert bench.app.AsyncResult(made.id).get(timeout=0) == 3
    assert bench.ran.count(("total", [1, 2])) == 1


def test_a_workflow_that_has_not_failed_is_not_tried_again(bench: Bench) -> None:
    made = chain(bench.may.s(1), bench.may.s())()
    bench.box.drain()
    with pytest.raises(CloudQError, match="nothing in the workflow"):
        bench.app.retry_workflow(made.id)


def test_without_a_memory_of_workflows_nothing_can_be_tried_again(bench: Bench) -> None:
    bench.app.conf.task_remember_workflows = False
    bench.broken = {1}
    made = chain(bench.may.s(1), bench.may.s())()
    bench.box.drain()

    assert "call" not in bench.app.need_store().read(made.parent.id).extra  # type: ignore[union-attr]
    with pytest.raises(CloudQError, match="was not kept"):
        bench.app.retry_workflow(made.id)


def test_large_workflows_are_tried_again_too(bench: Bench) -> None:
    bench.broken = {0}
    made = chain(bench.may.s(0), *[bench.add.s(1) for _ in range(150)])()
    bench.box.drain()
    bench.broken = set()
    bench.app.retry_workflow(made.id)
    bench.box.drain()

    assert bench.app.AsyncResult(made.id).get(timeout=0) == 150


# --- durable steps ----------------------------------------------------------------------------------


def test_a_step_is_done_once_and_replayed_in_a_retry(bench: Bench) -> None:
    calls: list[str] = []

    def charge(amount: int) -> dict[str, int]:
        calls.append("charge")
        return {"receipt": amount}

    @bench.app.task(name="order", bind=True, max_retries=5)
    def order(self: Any, amount: int) -> Any:
        receipt = self.step("charge", charge, amount)
        if self.request.retries < 3:
            raise self.retry(countdown=1)
        self.step("ship", calls.append, "ship")
        return receipt

    made = order.delay(5)
    bench.box.drain()

    assert made.get(timeout=0) == {"receipt": 5}
    assert calls == ["charge", "ship"]
    assert order.delay(6).id != made.id
    bench.box.drain()
    assert calls.count("charge") == 2  # another task's steps are its own


def test_a_step_that_fails_is_not_recorded(bench: Bench) -> None:
    tries: list[int] = []

    def shaky() -> int:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError("away")
        return len(tries)

    @bench.app.task(name="does", bind=True, autoretry_for=(ConnectionError,), retry_backoff=1)
    def does(self: Any) -> Any:
        return self.step("shaky", shaky)

    made = does.delay()
    bench.box.drain()
    assert made.get(timeout=0) == 3


def test_the_first_recorded_value_of_a_step_stands(bench: Bench) -> None:
    @bench.app.task(name="races", bind=True)
    def races(self: Any) -> Any:
        def slow() -> str:
            self.request.steps.clear()  # as another run of the same message would have it
            self.step("one", lambda: "the other run")
            return "this run"

        return self.step("one", slow)

    made = races.delay()
    bench.box.drain()
    assert made.get(timeout=0) == "the other run"


def test_bad_steps_are_refused(bench: Bench) -> None:
    @bench.app.task(name="twice", bind=True)
    def twice(self: Any) -> Any:
        return [self.step("a", int), self.step("a", int)]

    @bench.app.task(name="nameless", bind=True)
    def nameless(self: Any) -> Any:
        return self.step("", int)

    for task, says in ((twice, "comes twice"), (nameless, "has a name")):
        made = task.delay()
        bench.box.drain()
        with pytest.raises(ValueError, match=says):
            made.get(timeout=0)

    app = CloudQ("none", broker="memory://", backend="disabled://")
    alone = app.task(name="alone", bind=True)(lambda self: self.step("a", int))
    with pytest.raises(ImproperlyConfigured, match="results store"):
        alone.apply().get()
    assert alone() == 0


def test_steps_of_async_tasks(bench: Bench) -> None:
    async def fetch() -> str:
        return "page"

    @bench.app.task(name="asks", bind=True)
    async def asks(self: Any) -> Any:
        return [await self.astep("one", fetch), await self.astep("two", lambda: 2)]

    made = asks.delay()
    bench.box.drain()
    assert made.get(timeout=0) == ["page", 2]


# --- the command line -------------------------------------------------------------------------------

MODULE = """
from cloudq import CloudQ, chain
app = CloudQ("cli", broker="sqlite:///q.db", backend="sqlite:///q.db")
broken = True

@app.task(name="may")
def may(x):
    if broken:
        raise ValueError("broken")
    return x

@app.task(name="inc")
def inc(x):
    return x + 1
"""


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "canvas_cli_app.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("canvas_cli_app")
    made = chain(module.may.s(1), module.inc.s())()

    def run() -> None:
        lifecycle = module.app.lifecycle("w")
        while deliveries := module.app.broker.receive("cloudq", 10, 0.0, 60.0):
            for delivery in deliveries:
                lifecycle.run(delivery, NoWatch())
            module.app.broker.ack(deliveries)

    def cloudq(*arguments: str) -> str:
        done = CliRunner().invoke(cli, [*arguments, "-A", "canvas_cli_app:app"])
        assert done.exit_code == 0, done.output
        return done.output

    run()
    drawn = cloudq("result", made.id, "--tree")
    assert drawn.count("FAILURE") == 2
    assert "digraph" in cloudq("result", made.id, "--tree", "--format", "dot")
    assert "flowchart" in cloudq("result", made.id, "--tree", "--format", "mermaid")
    module.broken = False
    assert f"{made.parent.id}: sent again" in cloudq("retry", made.id)
    run()
    assert module.app.AsyncResult(made.id).get(timeout=0) == 2

    stopped = chain(module.may.s(1), module.inc.s())()
    told = cloudq("revoke", stopped.id, "--tree")
    assert told.count(": revoked") == 2
    failed = CliRunner().invoke(cli, ["retry", "nobody", "-A", "canvas_cli_app:app"])
    assert failed.exit_code == 1
    module.app.close()
