"""A worker that dies, or whose table misbehaves, in the middle of a group commit: nobody's message goes before its record is there.

Four tasks end at once. One's record is under way, so that those of the other three go together; then the process dies
at one point after the other: before and after each call, after each statement of the batch, around each
acknowledgement. A second worker takes over.
"""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from benchmarks.field.server.refusal import Refusal
from benchmarks.field.server.tables import Tables
from cloudq import CloudQ
from cloudq.aws.errors import from_code
from cloudq.aws.port import Call
from cloudq.backends.dynamodb import DynamoBackend
from cloudq.brokers.base import Delivery
from cloudq.brokers.sqlite import SqliteBroker
from cloudq.errors import ServiceUnavailable
from cloudq.execution.call import NoWatch
from cloudq.runtime.lifecycle import Lifecycle
from cloudq.runtime.verdict import Ack
from cloudq.testing.clock import JumpingClock

TASKS = 4
QUEUE, TABLE = "q", "results"
VISIBILITY = 30.0
PATIENCE = 60.0
BATCH = "BatchExecuteStatement"


class Crash(BaseException):
    """The process is gone, with all its threads."""


class Struck(BaseException):
    """One thread is stopped (a time limit), in the middle of what it does for others; the process goes on."""


class World:
    """What outlives processes: queue, table and clock."""

    def __init__(self) -> None:
        self.clock = JumpingClock()
        self.broker = SqliteBroker(None, self.clock, visibility_timeout=VISIBILITY, max_receive_count=9)
        self.tables = Tables()
        keys = [{"AttributeName": name, "KeyType": "HASH"} for name in ("pk", "sk")]
        self.tables.CreateTable({"TableName": TABLE, "KeySchema": keys})
        self.lock = threading.RLock()
        #: Versions that each record has ever had.
        self.versions: defaultdict[str, set[str]] = defaultdict(set)

    def do(self, call: Call) -> dict[str, Any]:
        """One call that reaches the table."""
        with self.lock:
            try:
                found: dict[str, Any] = getattr(self.tables, call.operation)({**call.params})
            except Refusal as no:
                code = no.body["__type"].rpartition("#")[2]
                raise from_code(code, str(no), 400, call, {"Item": no.body.get("Item")}) from no
            for (key, _), item in self.tables.tables[TABLE].items.items():
                self.versions[key].add(item["ver"]["S"])
            return found

    def app(self, port: Any, group_commit: bool) -> CloudQ:
        backend = DynamoBackend(port, TABLE, clock=self.clock, group_commit=group_commit)
        app = CloudQ("group", broker=self.broker, backend=backend, clock=self.clock, task_default_queue=QUEUE)

        @app.task(name="double")
        def double(x: int) -> int:
            return 2 * x

        return app


@dataclass
class Life:
    """One process's way to DynamoDB. It dies at its ``ends_at``-th point; ``fault`` is what the batch meets."""

    world: World
    ends_at: int | None = None
    fault: str = ""
    together: int = 0
    points: list[str] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    dead: bool = False
    region = "us-east-1"
    backend: DynamoBackend | None = None

    def reach(self, name: str) -> None:
        with self.world.lock:
            if self.dead:
                raise Crash(name)
            self.points.append(name)
            if self.ends_at is not None and len(self.points) > self.ends_at:
                self.dead = True
                raise Crash(name)

    def call(self, call: Call) -> Mapping[str, Any]:
        self._gather()
        self.reach(f"before {call.operation}")
        found = self._batch(call) if call.operation == BATCH else self.world.do(call)
        self.reach(f"after {call.operation}")
        return found

    def _gather(self) -> None:
        """The first write waits until all others wait for its end."""
        with self.world.lock:
            expected, self.together = self.together, 0
        if expected:
            assert self.backend is not None
            assert self.backend._firsts is not None
            deadline = time.monotonic() + PATIENCE
            while len(self.backend._firsts) < expected:
                assert time.monotonic() < deadline
                time.sleep(0.001)

    def _batch(self, call: Call) -> dict[str, Any]:
        statements = call.params["Statements"]
        self.batches.append(len(statements))
        if self.fault == "thread struck":
            raise Struck
        if self.fault == "refused":
            raise ServiceUnavailable("no answer, and nothing was done")
        answers: list[Any] = []
        for n, each in enumerate(statements):
            if self.fault == "throttled" and n % 2:
                answers.append({"Error": {"Code": "ThrottlingError", "Message": "slow down"}})
                continue
            answers += self.world.do(Call("dynamodb", BATCH, {"Statements": [each]}))["Responses"]
            self.reach(f"after statement {n}")
            if self.fault == "half done" and n == 1:
                raise ServiceUnavailable("no answer, and half of it was done")
        if self.fault == "answer lost":
            raise ServiceUnavailable("no answer, and all was done")
        return {"Responses": answers}

    def close(self) -> None:
        """The table outlives its users."""


def run_one(life: Life, lifecycle: Lifecycle, delivery: Delivery) -> None:
    verdict = lifecycle.run(delivery, NoWatch())
    assert isinstance(verdict, Ack), verdict
    life.reach("before ack")
    key = f"task/{json.loads(delivery.body)['id']}"
    with life.world.lock:
        there = {pk for pk, _ in life.world.tables.tables[TABLE].items}
    assert key in there, f"{key} is acknowledged, and its record is not there"
    life.world.broker.ack([delivery])
    life.reach("after ack")


def first_worker(world: World, life: Life) -> None:
    """All tasks at once, each in a thread, until done or dead."""
    app = world.app(life, group_commit=True)
    life.backend, life.together = app.backend, TASKS - 1  # type: ignore[assignment]
    deliveries: list[Delivery] = []
    while found := world.broker.receive(QUEUE, 10, 0.0, VISIBILITY):
        deliveries += found
    lifecycle = app.lifecycle("first")

    def work(delivery: Delivery) -> None:
        try:
            run_one(life, lifecycle, delivery)
        except Crash:
            assert life.dead
        except Struck:
            assert life.fault == "thread struck"

    with ThreadPoolExecutor(TASKS) as pool:
        for each in [pool.submit(work, delivery) for delivery in deliveries]:
            each.result(PATIENCE)


def second_worker(world: World) -> None:
    """Whatever was not acknowledged comes again."""
    world.clock.advance(VISIBILITY + 1.0)
    life = Life(world)
    lifecycle = world.app(life, group_commit=True).lifecycle("second")
    while found := world.broker.receive(QUEUE, 1, 0.0, VISIBILITY):
        for each in found:
            run_one(life, lifecycle, each)


def story(ends_at: int | None, fault: str) -> Life:
    """A crash (or none) at that point, then the second worker; the first life."""
    world = World()
    sender = world.app(Life(world), group_commit=False)
    for n in range(TASKS):
        sender.tasks["double"].apply_async((n,), task_id=f"t{n}")
    life = Life(world, ends_at, fault)
    first_worker(world, life)
    second_worker(world)
    reader = world.app(Life(world), group_commit=False)
    for n in range(TASKS):
        record = reader.read(f"t{n}")
        assert record is not None
        assert (record.state, record.result) == ("SUCCESS", 2 * n)
    assert {key: len(each) for key, each in world.versions.items()} == {f"task/t{n}": 1 for n in range(TASKS)}
    assert world.broker.depth(QUEUE).total == 0
    return life


@pytest.mark.parametrize("fault", ["", "throttled", "answer lost", "half done", "refused", "thread struck"])
def test_a_worker_may_die_at_any_point_of_a_group_commit(fault: str) -> None:
    calm = story(None, fault)
    assert calm.batches == [TASKS - 1]
    assert not calm.dead
    seen: set[str] = set()
    for ends_at in range(len(calm.points)):
        life = story(ends_at, fault)
        assert life.dead
        seen.update(life.points)
    wanted = {f"before {BATCH}", "before PutItem", "after PutItem", "before ack", "after ack"}
    wanted |= {"after statement 0"} if fault not in ("refused", "thread struck") else set()
    wanted |= {f"after {BATCH}", "after statement 2"} if fault in ("", "throttled") else set()
    assert wanted <= seen
