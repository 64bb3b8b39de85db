"""A crash between any two steps of a large message's life costs at worst an object that nobody points to.

Every call to the queue, the results store and the place of large messages is a point: the process dies just
before it, or just after it was done and before anybody heard of it. Senders die as well, and send again.
Each scenario is run once undisturbed to learn its points, then once per point and for many pairs of them (``CLOUDQ_TEST_SEED`` chooses others).
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from cloudq import CloudQ
from cloudq.backends.sqlite import SqliteBackend
from cloudq.brokers.base import Delivery
from cloudq.brokers.claimcheck import ClaimCheck, EntryPlace, ref_of
from cloudq.brokers.sqlite import SqliteBroker
from cloudq.execution.call import NoWatch
from cloudq.runtime.verdict import Ack, Bury, Release
from cloudq.testing.clock import JumpingClock
from cloudq.url import Url

SEED = int(os.environ.get("CLOUDQ_TEST_SEED", "20261121"))
#: Pairs of points that are tried, out of some thousands.
PAIRS = 100
VISIBILITY = 30.0
BIG = "x" * 3000


class Crash(BaseException):
    """The process is gone."""


@dataclass
class Life:
    """One process: dies at its ``ends_at``-th point, if that is given."""

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


class Mortal:
    """Anything whose caller may die at the calls of these methods."""

    def __init__(self, real: Any, life: Life, **steps: str) -> None:
        self._real = real
        self._life = life
        self._steps = steps

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        if name == "close":
            return lambda: None  # it outlives its users
        if name not in self._steps:
            return found
        what = self._steps[name]
        return lambda *args, **kwargs: self._life.step(what, lambda: found(*args, **kwargs))


class Claims(ClaimCheck):
    """Removes at once, so that a run is the same each time."""

    def forget(self, bodies: Iterable[str]) -> None:
        for body in bodies:
            if (ref := ref_of(body)) is not None:
                self.discard(ref)


class World:
    """What outlives processes: queue, results, large messages, clock; and what tasks did."""

    def __init__(self) -> None:
        self.clock = JumpingClock()
        self.broker = SqliteBroker(None, self.clock, visibility_timeout=VISIBILITY, max_receive_count=4)
        self.broker.capabilities = replace(self.broker.capabilities, max_delay=900.0)  # longer ones hop
        self.store = SqliteBackend(None, self.clock)
        self.kept = SqliteBackend(None, self.clock)
        self.ran: list[tuple[str, int]] = []

    def app(self, life: Life) -> CloudQ:
        broker: Any = Mortal(self.broker, life, send="send", ack="ack", release="release", bury="bury")
        store: Any = Mortal(self.store, life, read="read", write="write")
        place: Any = Mortal(EntryPlace(self.kept, Url("memory")), life, put="put", get="get", remove="remove")
        app = CloudQ(
            "crash",
            broker=broker,
            backend=store,
            clock=self.clock,
            task_default_queue="q",
            broker_large_messages="memory://",
            broker_large_messages_over=2000,
        )
        app._opened.get(
            "claims", lambda: Claims([place], most=100_000, expires=90 * 86400.0, clock=self.clock)
        )

        @app.task(bind=True, name="first")
        def first(task: Any, value: str) -> str:
            self.ran.append(("first", task.request.retries))
            return value + "!"

        @app.task(bind=True, name="second")
        def second(task: Any, value: str) -> int:
            self.ran.append(("second", task.request.retries))
            return len(value)

        @app.task(bind=True, name="tries", max_retries=5)
        def tries(task: Any, value: str) -> int:
            self.ran.append(("tries", task.request.retries))
            if task.request.retries < 2:
                task.retry(countdown=10.0)
            return len(value)

        return app

    def send(self, life: Life, send: Callable[[CloudQ], Any]) -> None:
        send(self.app(life))

    def live(self, life: Life) -> None:
        """One worker's work, until there is none or it dies."""
        app = self.app(life)
        lifecycle = app.lifecycle("mortal")
        while deliveries := app.broker.receive("q", 1, 0.0, VISIBILITY):
            life.reach("after receive")
            for delivery in deliveries:
                self.carry_out(app, delivery, lifecycle.run(delivery, NoWatch()))

    def carry_out(self, app: CloudQ, delivery: Delivery, verdict: Any) -> None:
        if isinstance(verdict, Ack) and not verdict.already:
            app.broker.ack([delivery])
            assert app.claims is not None
            app.claims.forget([delivery.body])
        elif isinstance(verdict, Bury):
            app.broker.bury(delivery, verdict.reason, verdict.detail)
        elif isinstance(verdict, Release):
            app.broker.release([delivery], verdict.delay)

    def orphans(self) -> int:
        return len(list(self.kept.keys("messages/")))


def play(
    send: Callable[[CloudQ], Any], crashes: Sequence[int], sender_ends_at: int | None = None
) -> tuple[Any, ...]:
    """Send (again, if the sender died), then live: each life but the last dies at its point."""
    world, sender = World(), Life(sender_ends_at)
    try:
        world.send(sender, send)
    except Crash:
        world.send(Life(), send)
    lives = []
    for ends_at in [*crashes, None]:
        life = Life(ends_at)
        lives.append(life.points)
        for _ in range(60):  # work comes due, leases of the dead run out
            try:
                world.live(life)
            except Crash:
                world.clock.advance(VISIBILITY + 1)
                break
            if world.broker.depth("q").total == 0:
                break
            world.clock.advance(60.0)
    return world, sender.points, lives


def linked(app: CloudQ) -> Any:
    """The follow-up is as large as what it follows."""
    return app.tasks["first"].apply_async((BIG,), task_id="T", link=app.tasks["second"].s())


def retried(app: CloudQ) -> Any:
    return app.tasks["tries"].apply_async((BIG,), task_id="T")


def hopping(app: CloudQ) -> Any:
    return app.tasks["second"].apply_async((BIG,), task_id="T", countdown=2000.0)


def check(world: World, name: str, crashed: bool) -> None:
    app = world.app(Life())
    assert world.broker.depth("q").total == 0
    assert world.broker.depth("q-dlq").total == 0, "a message pointed to what was gone"
    expected = {"linked": BIG + "!", "retried": 3000, "hopping": 3000}[name]
    assert app.AsyncResult("T").get(timeout=0) == expected
    if name == "linked":
        [child] = app.AsyncResult("T").children
        assert child.get(timeout=0) == 3001
    if not crashed:
        assert world.orphans() == 0
        assert len(set(world.ran)) == len(world.ran)
    world.clock.advance(100 * 86400.0)
    assert world.orphans() == 0, "orphans expire"


SCENARIOS = {"linked": linked, "retried": retried, "hopping": hopping}


@pytest.mark.parametrize("name", SCENARIOS)
def test_undisturbed_nothing_stays(name: str) -> None:
    world, sent, [points] = play(SCENARIOS[name], [])
    assert {"before put", "after put", "before send"} <= set(sent)
    assert {"after get", "after send", "after put", "before ack", "after ack", "after remove"} <= set(points)
    check(world, name, False)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_death_at_any_point_loses_nothing(name: str) -> None:
    _, sent, [points] = play(SCENARIOS[name], [])
    for ends_at in range(len(points)):
        world, _, lives = play(SCENARIOS[name], [ends_at])
        assert len(lives) == 2
        check(world, name, True)
    for ends_at in range(len(sent)):
        world, _, _ = play(SCENARIOS[name], [], ends_at)
        check(world, name, True)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_two_deaths_at_any_points_lose_nothing(name: str) -> None:
    _, _, [points] = play(SCENARIOS[name], [])
    pairs = list(itertools.product(range(len(points)), repeat=2))
    for first, second in random.Random(SEED).sample(pairs, min(PAIRS, len(pairs))):
        world, _, _ = play(SCENARIOS[name], [first, second])
        check(world, name, True)
