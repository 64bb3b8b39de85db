"""Workflows whose every process dies: each callback runs for one id only, with the right values, never early.

The crash points are those of test_crash_points: before and after each write, send and acknowledgement.
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cloudq import CloudQ, chain, chord, group
from cloudq.brokers.base import Message
from cloudq.execution.call import NoWatch
from cloudq.runtime.verdict import Ack, Bury, Release

_spec = importlib.util.spec_from_file_location(
    "crash_points", Path(__file__).with_name("test_crash_points.py")
)
assert _spec is not None
assert _spec.loader is not None
crash_points = sys.modules["crash_points"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(crash_points)
Crash, Life, World, QUEUE, VISIBILITY = (
    getattr(crash_points, name) for name in ("Crash", "Life", "World", "QUEUE", "VISIBILITY")
)


class Store(crash_points.MortalStore):  # type: ignore[misc,name-defined]
    """As there; a deletion is a point too."""

    def delete(self, key: str, *args: Any) -> None:
        self._life.step("delete", lambda: self._store.delete(key, *args))


class Canvas(World):  # type: ignore[misc,valid-type]
    """A world of workflows: which ids ran under which name, and how often."""

    def __init__(self) -> None:
        super().__init__()
        self.runs_of: dict[str, list[str]] = defaultdict(list)
        self.given: list[Any] = []
        self.broken: set[Any] = set()

    def app(self, life: Any) -> CloudQ:
        broker: Any = crash_points.MortalBroker(self.broker, life, self.sent)
        store: Any = Store(self.store, life)
        app = CloudQ("crash", broker=broker, backend=store, clock=self.clock, task_default_queue=QUEUE)
        declare(app, self)
        return app

    def ids(self, name: str) -> set[str]:
        return set(self.runs_of[name])


def declare(app: CloudQ, world: Canvas) -> None:
    def ran(task: Any) -> None:
        world.runs_of[task.name].append(task.request.id)

    @app.task(bind=True, name="step")
    def step(self: Any, x: int, y: int = 1) -> int:
        ran(self)
        return x + y

    @app.task(bind=True, name="tries", max_retries=3)
    def tries(self: Any, x: int) -> int:
        ran(self)
        if self.request.retries < 2:
            raise self.retry(countdown=1)
        return x

    @app.task(bind=True, name="total")
    def total(self: Any, values: list[int]) -> int:
        ran(self)
        world.given.append(list(values))
        return sum(values)

    @app.task(bind=True, name="note")
    def note(self: Any, *args: Any) -> None:
        ran(self)

    @app.task(bind=True, name="fails")
    def fails(self: Any, *args: Any) -> None:
        ran(self)
        raise ValueError("as always")

    @app.task(bind=True, name="may")
    def may(self: Any, x: int) -> int:
        ran(self)
        if x in world.broken:
            raise ValueError(x)
        return x

    @app.task(bind=True, name="stepped")
    def stepped(self: Any) -> list[str]:
        def did(what: str) -> str:
            world.given.append(what)
            return what

        return [self.step("one", did, "charge"), self.step("two", did, "ship")]

    @app.task(bind=True, name="becomes")
    def becomes(self: Any, x: int) -> Any:
        ran(self)
        return self.replace(step.s(x) | step.s())

    @app.task(bind=True, name="grows")
    def grows(self: Any, x: int) -> int:
        ran(self)
        self.add_to_chord(step.s(x, 10))
        return x


@dataclass(frozen=True)
class Scenario:
    """``make(tasks)`` is the workflow, ``value`` what comes of it (None: a failure); ``ids`` says for how
    many ids each task runs; ``given`` what the body gets."""

    make: Callable[[Any], Any]
    value: Any
    ids: dict[str, int] = field(default_factory=dict)
    given: list[Any] | None = None


SCENARIOS: dict[str, Scenario] = {
    "chain": Scenario(lambda t: chain(t["step"].s(1), t["step"].s(), t["step"].s()), 4, {"step": 3}),
    "chord": Scenario(
        lambda t: chord([t["step"].s(n) for n in range(3)], t["total"].s()),
        6,
        {"step": 3, "total": 1},
        [1, 2, 3],
    ),
    "chord with retries": Scenario(
        lambda t: chord([t["tries"].s(5), t["step"].s(1)], t["total"].s()),
        7,
        {"tries": 1, "step": 1, "total": 1},
        [5, 2],
    ),
    "chord in a chain in a chord": Scenario(
        lambda t: chord(
            [t["step"].s(0) | group(t["step"].s(), t["step"].s()) | t["total"].s(), t["step"].s(5)],
            t["total"].s() | t["step"].s(),
        ),
        11,
        {"step": 5, "total": 2},
    ),
    "a failing member": Scenario(
        lambda t: chord([t["step"].s(1), t["fails"].s() | t["step"].s()], t["total"].s()).on_error(
            t["note"].s()
        ),
        None,
        {"step": 1, "fails": 1, "total": 0, "note": 1},
    ),
    "replace in a header": Scenario(
        lambda t: chord([t["becomes"].s(1), t["step"].s(1)], t["total"].s()),
        5,
        {"becomes": 1, "step": 3, "total": 1},
        [3, 2],
    ),
    "add_to_chord": Scenario(
        lambda t: chord([t["grows"].s(1), t["step"].s(1)], t["total"].s()),
        14,
        {"grows": 1, "step": 2, "total": 1},
        [1, 2, 11],
    ),
    "links": Scenario(
        lambda t: t["step"].s(1).set(link=[t["note"].s(), t["step"].s() | t["note"].s()]),
        2,
        {"step": 2, "note": 2},
    ),
}


def live(world: Canvas, life: Any) -> None:
    """One process's work, until there is none or it dies."""
    app = world.app(life)
    lifecycle = app.lifecycle("mortal")
    while deliveries := app.broker.receive(QUEUE, 1, 0.0, VISIBILITY):
        for delivery in deliveries:
            verdict = lifecycle.run(delivery, NoWatch())
            if isinstance(verdict, Ack) and not verdict.already:
                app.broker.ack([delivery])
            elif isinstance(verdict, Bury):
                app.broker.bury(delivery, verdict.reason, verdict.detail)
            elif isinstance(verdict, Release):
                app.broker.release([delivery], verdict.delay)


def play(scenario: Scenario, crashes: Sequence[int], copies: int = 1) -> tuple[Canvas, Any, list[str]]:
    """The world after the scenario, its result, and the points of the first life."""
    world = Canvas()
    caller = world.app(Life())
    made = scenario.make(caller.tasks).apply_async()
    if copies > 1:
        world.broker.send(QUEUE, [Message(body) for body in world.sent for _ in range(copies - 1)])
    points: list[str] = []
    for n, ends_at in enumerate([*crashes, None]):
        life = Life(ends_at)
        try:
            live(world, life)
        except Crash:
            world.clock.advance(VISIBILITY + 1)
        if n == 0:
            points = life.points
    for _ in range(200):  # what was given back or retried is due later
        if world.broker.depth(QUEUE).total == 0:
            break
        world.clock.advance(VISIBILITY + 1)
        live(world, Life())
    return world, made, points


def check(scenario: Scenario, world: Canvas, made: Any, disturbed: bool) -> None:
    assert world.broker.depth(QUEUE).total == 0, "a message stayed behind"
    record = world.app(Life()).read(made.id)
    assert record is not None, "no result"
    assert record.state == ("FAILURE" if scenario.value is None else "SUCCESS")
    assert scenario.value is None or record.result == scenario.value
    for name, count in scenario.ids.items():
        assert len(world.ids(name)) == count, (name, world.runs_of[name])
        assert disturbed or name == "tries" or len(world.runs_of[name]) == count, (name, world.runs_of[name])
    if scenario.given is not None:  # whoever ran early would have been given less
        assert all(each == scenario.given for each in world.given)


def survives(name: str, every: Callable[[int], Iterable[tuple[int, ...]]]) -> None:
    scenario = SCENARIOS[name]
    world, made, points = play(scenario, [])
    check(scenario, world, made, disturbed=False)
    assert len(points) > 10
    for crashes in every(len(points)):
        world, made, _ = play(scenario, crashes)
        try:
            check(scenario, world, made, disturbed=True)
        except AssertionError as error:
            story = ", then ".join(f"{points[n]} (#{n})" for n in crashes if n < len(points))
            raise AssertionError(f"{name}: died {story}: {error}") from error


@pytest.fixture(autouse=True)
def _away_from_pyproject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_callback_runs_once_whatever_step_the_process_dies_at(name: str) -> None:
    survives(name, lambda points: ((n,) for n in range(points)))


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_callback_runs_once_when_all_messages_come_three_times(name: str) -> None:
    scenario = SCENARIOS[name]
    world, made, _ = play(scenario, [], copies=3)
    check(scenario, world, made, disturbed=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_callback_runs_once_when_its_successor_dies_as_well(name: str) -> None:
    survives(name, lambda points: ((n, n) for n in range(points)))
    survives(name, lambda points: itertools.islice(itertools.product(range(points), repeat=2), 0, None, 7))


# --- a person's second try, and durable steps -------------------------------------------------------


def failed_world() -> tuple[Canvas, Any]:
    """A chord in a chain of which two members have failed, and nothing is queued any more."""
    world = Canvas()
    world.broken = {1, 2}
    caller = world.app(Life())
    t = caller.tasks
    made = (chord([t["may"].s(n) for n in range(3)], t["total"].s()) | t["step"].s()).apply_async()
    live(world, Life())
    record = caller.read(made.id)
    assert record is not None
    assert record.state == "FAILURE"
    world.broken = set()
    return world, made


def retried(ends_at: int | None) -> tuple[Canvas, Any, list[str]]:
    world, made = failed_world()
    life = Life(ends_at)
    try:
        world.app(life).retry_workflow(made.id)
    except Crash:
        world.app(Life()).retry_workflow(made.id)  # whoever asked for it asks again
    live(world, Life())
    for _ in range(20):
        if world.broker.depth(QUEUE).total == 0:
            break
        world.clock.advance(VISIBILITY + 1)
        live(world, Life())
    return world, made, life.points


def test_a_retry_of_a_workflow_may_die_at_any_step_and_be_asked_for_again() -> None:
    _, _, points = retried(None)
    assert len(points) > 10
    for ends_at in [*range(len(points)), None]:
        world, made, _ = retried(ends_at)
        record = world.app(Life()).read(made.id)
        assert record is not None
        assert (record.state, record.result) == ("SUCCESS", 4), (ends_at, ends_at and points[ends_at])
        assert len(world.ids("total")) == 1
        assert world.given == [[0, 1, 2]] * len(world.given)
        assert len(world.runs_of["may"]) >= 5
        assert (
            world.runs_of["may"].count(made.parent.parent[0].id) == 1
        )  # what had succeeded does not run again


def test_a_durable_step_is_done_once_but_for_a_crash_between_it_and_its_record() -> None:
    def play_steps(ends_at: int | None) -> tuple[Canvas, list[str]]:
        world = Canvas()
        world.app(Life()).tasks["stepped"].apply_async((), task_id="T")
        life = Life(ends_at)
        try:
            live(world, life)
        except Crash:
            world.clock.advance(VISIBILITY + 1)
        live(world, Life())
        return world, life.points

    undisturbed, points = play_steps(None)
    assert undisturbed.given == ["charge", "ship"]
    twice = []
    for ends_at in range(len(points)):
        world, _ = play_steps(ends_at)
        record = world.app(Life()).read("T")
        assert record is not None
        assert record.result == ["charge", "ship"]
        if len(world.given) > 2:
            twice.append(points[ends_at])
    assert twice == ["before write"] * 2  # the function had returned, its value was not yet on record
