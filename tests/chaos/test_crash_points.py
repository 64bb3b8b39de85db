"""A crash between any two steps of a delivery's life costs a redelivery, never a task or what follows it.

Every call to the outside (broker, store) is a point: the process dies just before it, or just after
it was done and before anybody heard of it. Each scenario is run once undisturbed, to learn its
points; then once per point, and once per pair of points (the second life dies as well). After that
workers that do not die take over, and the end must be the same.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from cloudq import CloudQ
from cloudq.backends.base import ALWAYS
from cloudq.backends.sqlite import SqliteBackend
from cloudq.brokers.base import BURIED_AT, DETAIL, ORIGIN, REASON, Delivery, Message
from cloudq.brokers.sqlite import SqliteBroker
from cloudq.errors import Reject
from cloudq.execution.call import NoWatch
from cloudq.pools.base import Died
from cloudq.results.record import Record
from cloudq.runtime.lifecycle import Lifecycle
from cloudq.runtime.verdict import Ack, Bury, Release
from cloudq.testing.clock import JumpingClock

QUEUE = "q"
DEAD = "q-dlq"
VISIBILITY = 30.0


class Crash(BaseException):
    """The process is gone."""


@dataclass
class Life:
    """One process: dies at its ``ends_at``-th point, if that is given. Names what it came by."""

    ends_at: int | None = None
    points: list[str] = field(default_factory=list)

    def step(self, name: str, do: Callable[[], Any]) -> Any:
        self.reach(f"before {name}")
        value = do()
        self.reach(f"after {name}")
        return value

    def reach(self, name: str) -> None:
        self.points.append(name)
        if self.ends_at is not None and len(self.points) > self.ends_at:
            raise Crash(name)


class MortalBroker:
    """A broker whose caller may die at any call. Buries in two steps, and delays at most 900 s, as SQS."""

    def __init__(self, broker: SqliteBroker, life: Life, sent: list[str]) -> None:
        self._broker = broker
        self._life = life
        self._sent = sent
        self.url = broker.url
        self.capabilities = replace(broker.capabilities, max_delay=900.0)

    def send(self, queue: str, messages: Sequence[Message]) -> list[str]:
        ids: list[str] = self._life.step(f"send to {queue}", lambda: self._broker.send(queue, messages))
        self._sent.extend(each.body for each in messages)
        return ids

    def receive(self, queue: str, limit: int, wait: float, invisible: float) -> list[Delivery]:
        found = self._broker.receive(queue, limit, 0.0, invisible)
        if found:
            self._life.reach("after receive")
        return found

    def bury(self, delivery: Delivery, reason: str, detail: str = "") -> None:
        attributes = {REASON: reason, DETAIL: detail, ORIGIN: delivery.queue, BURIED_AT: "now"}
        self._life.step(
            "send to the dead",
            lambda: self._broker.send(DEAD, [Message(delivery.body, attributes=attributes)]),
        )
        self._life.step("delete", lambda: self._broker.ack([delivery]))

    def ack(self, deliveries: Sequence[Delivery]) -> Any:
        return self._life.step("ack", lambda: self._broker.ack(deliveries))

    def release(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> Any:
        return self._life.step("release", lambda: self._broker.release(deliveries, delay))

    def close(self) -> None:
        """The queue outlives its users."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)


class MortalStore:
    """A results store whose caller may die at any call."""

    def __init__(self, store: SqliteBackend, life: Life) -> None:
        self._store = store
        self._life = life

    def read(self, key: str) -> Any:
        return self._life.step("read", lambda: self._store.read(key))

    def write(self, key: str, value: bytes, when: Any = ALWAYS, expires_at: float | None = None) -> Any:
        return self._life.step("write", lambda: self._store.write(key, value, when, expires_at))

    def close(self) -> None:
        """The store outlives its users."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class World:
    """What outlives processes: the queue, the store, the clock; and what tasks did."""

    def __init__(self) -> None:
        self.clock = JumpingClock()
        self.broker = SqliteBroker(None, self.clock, visibility_timeout=VISIBILITY, max_receive_count=4)
        self.store = SqliteBackend(None, self.clock)
        self.runs: list[tuple[str, int, float]] = []
        self.sent: list[str] = []

    def app(self, life: Life) -> CloudQ:
        broker: Any = MortalBroker(self.broker, life, self.sent)
        store: Any = MortalStore(self.store, life)
        app = CloudQ("crash", broker=broker, backend=store, clock=self.clock, task_default_queue=QUEUE)
        tasks(app, self)
        return app

    def live(self, life: Life, handle: Callable[[Lifecycle, Delivery], Any]) -> None:
        """One process's work, until there is none or it dies."""
        app = self.app(life)
        lifecycle = app.lifecycle("mortal")
        while deliveries := app.broker.receive(QUEUE, 1, 0.0, VISIBILITY):
            for delivery in deliveries:
                verdict = handle(lifecycle, delivery)
                if isinstance(verdict, Ack) and not verdict.already:
                    app.broker.ack([delivery])
                elif isinstance(verdict, Bury):
                    app.broker.bury(delivery, verdict.reason, verdict.detail)
                elif isinstance(verdict, Release):
                    app.broker.release([delivery], verdict.delay)

    def ran(self, name: str) -> list[tuple[int, float]]:
        return [(retries, at) for task, retries, at in self.runs if task == name]

    def ids_sent(self, name: str) -> set[str]:
        bodies = [json.loads(body) for body in self.sent]
        return {body["id"] for body in bodies if body["task"] == name}

    def record(self, task_id: str) -> Record | None:
        return self.app(Life()).read(task_id)

    def dead(self) -> list[Delivery]:
        return self.broker.receive(DEAD, 10, 0.0, 1.0)


def tasks(app: CloudQ, world: World) -> None:
    def ran(task: Any) -> None:
        world.runs.append((task.name, task.request.retries, world.clock.time()))

    @app.task(bind=True, name="fine")
    def fine(self: Any, x: int) -> int:
        ran(self)
        return x + 1

    @app.task(bind=True, name="tracked", track_started=True)
    def tracked(self: Any, x: int) -> int:
        ran(self)
        return x + 1

    @app.task(bind=True, name="follow")
    def follow(self: Any, *args: Any) -> list[Any]:
        ran(self)
        return list(args)

    @app.task(bind=True, name="fails")
    def fails(self: Any) -> None:
        ran(self)
        raise ValueError("as always")

    @app.task(bind=True, name="fails_deadly", dead_letter=True)
    def fails_deadly(self: Any) -> None:
        ran(self)
        raise ValueError("as always")

    @app.task(bind=True, name="refuses")
    def refuses(self: Any) -> None:
        ran(self)
        raise Reject("not mine")

    @app.task(bind=True, name="tries", max_retries=5)
    def tries(self: Any) -> int:
        ran(self)
        if self.request.retries < 2:
            self.retry(countdown=10.0)
        return int(self.request.retries)

    @app.task(bind=True, name="gives_up", autoretry_for=(ValueError,), max_retries=1, default_retry_delay=5)
    def gives_up(self: Any) -> None:
        ran(self)
        raise ValueError("as always")

    @app.task(bind=True, name="early", acks_late=False)
    def early(self: Any) -> str:
        ran(self)
        return "once"


@dataclass(frozen=True)
class Scenario:
    """What is sent, how deliveries are handled, what must be true in the end, and the points it must have."""

    send: Callable[[CloudQ], Any]
    check: Callable[[World, bool], None]
    points: set[str]
    handle: Callable[[Lifecycle, Delivery], Any] = lambda lifecycle, delivery: lifecycle.run(
        delivery, NoWatch()
    )


def play(scenario: Scenario, crashes: Sequence[int]) -> tuple[World, list[list[str]]]:
    """Send, then live: each life but the last dies at its point. Returns the world and each life's points."""
    world = World()
    with world.app(Life()) as sender:
        scenario.send(sender)
    lives = []
    for ends_at in [*crashes, None]:
        life = Life(ends_at)
        lives.append(life.points)
        for _ in range(60):  # work comes due, leases of the dead run out
            try:
                world.live(life, scenario.handle)
            except Crash:
                world.clock.advance(VISIBILITY + 1)
                break
            if world.broker.depth(QUEUE).total == 0:
                break
            world.clock.advance(60.0)
    return world, lives


# --- what must be true in the end -----------------------------------------------------------------


def _one_of(world: World, name: str) -> str:
    (task_id,) = world.ids_sent(name)
    return task_id


def _state(world: World, task_id: str, state: str) -> Record:
    record = world.record(task_id)
    assert record is not None
    assert record.state == state
    return record


def success_with_links(world: World, crashed: bool) -> None:
    record = _state(world, "T", "SUCCESS")
    assert record.result == 2
    followers = world.ids_sent("follow")
    assert len(followers) == 2, "a follow-up sent twice has the same id both times"
    assert set(record.children) == followers
    assert sorted((_state(world, each, "SUCCESS").result for each in followers), key=len) == [["b"], [2, "a"]]
    assert len(world.ran("fine") + world.ran("tracked")) == 1 or crashed
    assert world.dead() == []


def failure_with_errback(world: World, crashed: bool) -> None:
    assert isinstance(_state(world, "T", "FAILURE").result, ValueError)
    assert _state(world, _one_of(world, "follow"), "SUCCESS").result == ["T"]
    assert len(world.ran("fails")) == 1 or crashed
    assert world.dead() == []


def retried_to_success(world: World, crashed: bool) -> None:
    record = _state(world, "T", "SUCCESS")
    assert (record.result, record.retries) == (2, 2)
    assert {retries for retries, _ in world.ran("tries")} == {0, 1, 2}
    assert len(world.ran("tries")) == 3 or crashed
    assert _state(world, _one_of(world, "follow"), "SUCCESS").result == [2]
    assert world.dead() == []


def retried_to_failure(world: World, crashed: bool) -> None:
    assert _state(world, "T", "FAILURE").retries == 1
    assert {retries for retries, _ in world.ran("gives_up")} == {0, 1}
    assert len(world.ran("gives_up")) == 2 or crashed
    assert _state(world, _one_of(world, "follow"), "SUCCESS").result == ["T"]


def at_most_once(world: World, crashed: bool) -> None:
    assert len(world.ran("early")) <= 1
    if not crashed:
        assert _state(world, "T", "SUCCESS").result == "once"


def buried(reason: str) -> Callable[[World, bool], None]:
    def check(world: World, crashed: bool) -> None:
        letters = world.dead()
        assert {each.attributes.get(REASON) for each in letters} == {reason}
        assert len({each.body for each in letters}) == 1
        assert len(letters) == 1 or crashed

    return check


def failed_and_buried(world: World, crashed: bool) -> None:
    assert isinstance(_state(world, "T", "FAILURE").result, ValueError)
    buried("task_failed")(world, crashed)


def rejected_and_buried(world: World, crashed: bool) -> None:
    _state(world, "T", "REJECTED")
    buried("rejected")(world, crashed)


def not_before_its_time(world: World, crashed: bool) -> None:
    assert _state(world, "T", "SUCCESS").result == 2
    runs = world.ran("fine")
    assert min(at for _, at in runs) >= JumpingClock().time() + 2000.0
    assert len(runs) == 1 or crashed


def revoked(world: World, crashed: bool) -> None:
    _state(world, "T", "REVOKED")
    assert world.ran("fine") == []


def poison(world: World, crashed: bool) -> None:
    assert len(world.dead()) >= 1
    if not crashed:
        assert type(_state(world, "T", "FAILURE").result).__name__ == "WorkerLostError"


def _links(app: CloudQ) -> list[Any]:
    return [app.signature("follow", ("a",)), app.signature("follow", ("b",), immutable=True)]


def _named(app: CloudQ, name: str, *args: Any, **options: Any) -> None:
    app.send_task(name, args, task_id="T", **options)


SCENARIOS: dict[str, Scenario] = {
    "success with two links": Scenario(
        lambda app: _named(app, "fine", 1, link=_links(app)),
        success_with_links,
        {"before write", "after write", "before send to q", "after send to q", "before ack", "after ack"},
    ),
    "start on record, then success": Scenario(
        lambda app: _named(app, "tracked", 1, link=_links(app)),
        success_with_links,
        {"after write", "after send to q", "after ack"},
    ),
    "failure with an error link": Scenario(
        lambda app: _named(app, "fails", link_error=app.signature("follow")),
        failure_with_errback,
        {"after write", "before send to q", "after send to q", "before ack"},
    ),
    "two retries, then success with a link": Scenario(
        lambda app: _named(app, "tries", link=app.signature("follow")),
        retried_to_success,
        {"before write", "after write", "before send to q", "after send to q", "before ack", "after read"},
    ),
    "retries used up": Scenario(
        lambda app: _named(app, "gives_up", link_error=app.signature("follow")),
        retried_to_failure,
        {"after write", "after send to q", "before ack"},
    ),
    "acknowledged early": Scenario(
        lambda app: _named(app, "early"),
        at_most_once,
        {"before ack", "after ack", "before write", "after write"},
    ),
    "unknown task": Scenario(
        lambda app: _named(app, "nobody_knows"),
        buried("unknown_task"),
        {"before send to the dead", "after send to the dead", "before delete", "after delete"},
    ),
    "failure to the dead letters": Scenario(
        lambda app: _named(app, "fails_deadly"),
        failed_and_buried,
        {"after write", "before send to the dead", "before delete"},
    ),
    "rejected": Scenario(
        lambda app: _named(app, "refuses"), rejected_and_buried, {"after write", "after send to the dead"}
    ),
    "far away in time": Scenario(
        lambda app: _named(app, "fine", 1, countdown=2000.0),
        not_before_its_time,
        {"before send to q", "after send to q", "before ack", "after ack", "after write"},
    ),
    "expired": Scenario(
        lambda app: _named(app, "fine", 1, countdown=100.0, expires=50.0),
        revoked,
        {"after write", "before ack"},
    ),
    "poison": Scenario(
        lambda app: _named(app, "fine", 1),
        poison,
        {
            "before read",
            "after release",
            "before write",
            "after write",
            "before send to the dead",
            "after delete",
        },
        lambda lifecycle, delivery: lifecycle.lost(delivery, Died("killed by signal 11 (SIGSEGV)")),
    ),
}


@pytest.fixture(autouse=True)
def _away_from_pyproject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every app reads the nearest pyproject.toml: hundreds of apps need not."""
    monkeypatch.chdir(tmp_path)


def survives(name: str, every_crash: Callable[[int], Iterable[tuple[int, ...]]]) -> None:
    """The end is right after each of these series of crashes; ``every_crash`` is told the number of points."""
    scenario = SCENARIOS[name]
    undisturbed, (points,) = play(scenario, [])
    assert scenario.points <= set(points), "the scenario no longer comes by the points it is meant to try"
    scenario.check(undisturbed, False)
    for crashes in every_crash(len(points)):
        world, lives = play(scenario, crashes)
        story = ", then ".join(f"died {died[-1]} (#{len(died)})" for died in lives[:-1] if died)
        try:
            assert world.broker.depth(QUEUE).total == 0, "a message stayed behind"
            scenario.check(world, True)
        except AssertionError as error:
            raise AssertionError(f"{name}: {story}: {error}") from error


@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_is_lost_whatever_step_the_process_dies_at(name: str) -> None:
    survives(name, lambda points: ((n,) for n in range(points)))


@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_is_lost_when_its_successor_dies_at_the_same_step(name: str) -> None:
    survives(name, lambda points: ((n, n) for n in range(points)))


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_is_lost_when_its_successor_dies_at_any_step(name: str) -> None:
    survives(name, lambda points: itertools.product(range(points), repeat=2))
