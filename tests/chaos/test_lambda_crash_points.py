"""A function that dies at any call to the outside costs a redelivery, never a task or what follows it.

The worlds and scenarios of ``test_crash_points``, lived by Lambda functions: batches of up to ten messages, and
Lambda itself, which deletes what was not reported and may do so late or not at all.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from esm import Context, record

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from chaos.test_crash_points import QUEUE, SCENARIOS, VISIBILITY, Crash, Life, Scenario, World

from cloudq import CloudQ
from cloudq.aws_lambda import Handler, make_handler

#: Those in which a test judges a dead worker by hand are no matter of Lambda's.
BY_HAND = [name for name, each in SCENARIOS.items() if each.handle is not SCENARIOS["rejected"].handle]
NAMES = [name for name in SCENARIOS if name not in BY_HAND]


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What dying threads say and log is expected; every app reads the nearest pyproject.toml: these need not."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    logger = logging.getLogger("cloudq")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


class Mortal(Life):
    """A process whose threads die with it."""

    @property
    def is_over(self) -> bool:
        return self.ends_at is not None and len(self.points) > self.ends_at


def live(world: World, life: Mortal, handler: Handler) -> None:
    """One function's invocations, until there is no message or it dies."""
    while deliveries := world.broker.receive(QUEUE, 10, 0.0, VISIBILITY):
        event = json.loads(json.dumps({"Records": [record(each) for each in deliveries]}))
        answer = handler(event, Context(60.0))
        if life.is_over:
            raise Crash
        failed = {each["itemIdentifier"] for each in answer["batchItemFailures"]}
        done = [each for each in deliveries if each.message_id not in failed and "" not in failed]
        life.step("delete by Lambda", lambda done=done: world.broker.ack(done))


@contextmanager
def function(world: World, life: Mortal) -> Iterator[Handler]:
    app = world.app(life)

    @app.task(name="many", batch=10)
    def many(requests: list[Any]) -> list[int]:
        world.runs += [(f"many {each.args[0]}", each.retries, world.clock.time()) for each in requests]
        return [each.args[0] * 2 for each in requests]

    handler = make_handler(app, concurrency=1)
    handler._telemetry = Quiet()  # type: ignore[assignment]
    try:
        yield handler
    finally:
        handler.close()


class Quiet:
    def report(self, jobs: Any, request_id: Any) -> None:
        """Nothing is written."""


def play(scenario: Scenario, crashes: list[int]) -> tuple[World, list[str]]:
    world = World()
    with world.app(Life()) as sender:
        scenario.send(sender)
    first: list[str] | None = None
    for ends_at in [*crashes, None]:
        life = Mortal(ends_at)
        first = life.points if first is None else first
        with function(world, life) as handler:
            for _ in range(60):
                try:
                    live(world, life, handler)
                except Crash:
                    world.clock.advance(VISIBILITY + 1)
                    break
                if world.broker.depth(QUEUE).total == 0:
                    break
                world.clock.advance(60.0)
    assert first is not None
    return world, first


@pytest.mark.parametrize("name", NAMES)
def test_a_function_may_die_anywhere(name: str) -> None:
    survives(SCENARIOS[name])


def survives(scenario: Scenario) -> None:
    """The end is right wherever the first function dies."""
    world, points = play(scenario, [])
    scenario.check(world, False)
    assert len(points) > 2, points
    for point in range(len(points)):
        world, _ = play(scenario, [point])
        try:
            assert world.broker.depth(QUEUE).total == 0, "a message stayed behind"
            scenario.check(world, True)
        except AssertionError as error:
            raise AssertionError(f"after a death at {points[point]!r} ({point}): {error}") from error


def a_batch_of_everything(app: CloudQ) -> None:
    for name, args in (("fine", (1,)), ("fails", ()), ("refuses", ()), ("tries", ()), ("tracked", (2,))):
        app.send_task(name, args, task_id=name)
    for n in range(4):
        app.send_task(
            "many", (n,), task_id=f"many {n}", link=app.signature("follow", options={"task_id": f"after {n}"})
        )


def everything_ended(world: World, crashed: bool) -> None:
    ends = {
        "fine": "SUCCESS",
        "fails": "FAILURE",
        "refuses": "REJECTED",
        "tries": "SUCCESS",
        "tracked": "SUCCESS",
    }
    ends |= {f"{what} {n}": "SUCCESS" for n in range(4) for what in ("many", "after")}
    found = {name: record.state for name in ends if (record := world.record(name)) is not None}
    assert found == ends
    assert [world.record(f"after {n}").result for n in range(4)] == [[0], [2], [4], [6]]  # type: ignore[union-attr]
    assert {json.loads(each.body)["id"] for each in world.dead()} == {"refuses"}
    assert crashed or len(world.runs) == 5 + 2 + 4 + 4, "nothing ran twice"


def test_a_function_may_die_anywhere_in_a_batch_of_several() -> None:
    survives(Scenario(a_batch_of_everything, everything_ended, set()))
