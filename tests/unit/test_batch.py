"""Batch tasks: one call of the function for several calls of the task, each with an end of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from drivers import DRIVERS
from stage import Stage

from cloudq import CloudQ, Ignore, Reject, aio
from cloudq.brokers.base import Delivery
from cloudq.errors import ImproperlyConfigured, Retry
from cloudq.execution.call import NoWatch
from cloudq.pools.base import Died, Finished
from cloudq.registry import Registry
from cloudq.runtime import batch
from cloudq.runtime.verdict import ABANDON, ACK, Ack, Bury, Release
from cloudq.testing import sandbox
from cloudq.worker.batches import Batch, Batches


@pytest.fixture(params=DRIVERS)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    stage = Stage(driver=request.param)
    yield stage
    stage.close()


def run(stage: Stage, limit: int = 10) -> list[Any]:
    """Receive once and run it as one batch; the verdicts, carried out."""
    deliveries = stage.app.broker.receive("cloudq", limit, 0.0, 60.0)
    worker: Any = stage.app.lifecycle("w1")
    if stage.driver == "lambda":
        verdicts = worker.run_batch(deliveries)
    else:
        verdicts = batch.run(worker, deliveries, NoWatch())
    for delivery, verdict in zip(deliveries, verdicts, strict=True):
        stage.carry_out(delivery, verdict)
    return verdicts


# --- declaring -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch": 0}, "batch is 1 or more"),
        ({"batch": True}, "batch is 1 or more"),
        ({"batch": 5, "batch_wait": -1}, "batch_wait"),
    ],
)
def test_what_is_no_batch_is_refused(options: dict[str, Any], said: str) -> None:
    app = CloudQ("t", broker="memory://", backend="memory://")
    with pytest.raises(ImproperlyConfigured, match=said):

        @app.task(**options)
        def store(requests: list[Any]) -> None: ...


def test_a_function_that_cannot_take_a_list_of_requests_is_refused() -> None:
    app = CloudQ("t", broker="memory://", backend="memory://")
    with pytest.raises(ImproperlyConfigured, match="takes one argument, the list of requests"):

        @app.task(batch=10)
        def store(x: int, y: int) -> None: ...


# --- one run, many ends ------------------------------------------------------------------------------


def test_the_function_gets_the_requests_and_each_call_its_result(stage: Stage) -> None:
    seen: list[Any] = []

    @stage.app.task(name="store", batch=10)
    def store(requests: list[Any]) -> list[int]:
        seen.append([(each.args, dict(each.kwargs), each.id) for each in requests])
        return [each.args[0] * 2 for each in requests]

    calls = [store.delay(n, note="x") for n in range(4)]
    assert run(stage) == [ACK] * 4

    assert seen == [[((n,), {"note": "x"}, call.id) for n, call in enumerate(calls)]]
    assert [each.get(timeout=1) for each in calls] == [0, 2, 4, 6]
    assert stage.app.broker.depth("cloudq").total == 0


def test_results_may_be_none_or_a_mapping_by_id(stage: Stage) -> None:
    @stage.app.task(name="nothing", batch=10)
    def nothing(requests: list[Any]) -> None: ...

    @stage.app.task(name="some", batch=10)
    def some(requests: list[Any]) -> dict[str, str]:
        return {each.id: "found" for each in requests if each.args[0] != 1}

    calls = [nothing.delay(1)]
    run(stage)
    assert calls[0].get(timeout=1) is None

    calls = [some.delay(n) for n in range(3)]
    run(stage)
    assert [each.state for each in calls] == ["SUCCESS", "FAILURE", "SUCCESS"]
    with pytest.raises(LookupError, match=f"some returned nothing for {calls[1].id}"):
        calls[1].get(timeout=1)


@pytest.mark.parametrize("value", [[1], "text", 5])
def test_a_return_value_that_fits_no_batch_fails_all(stage: Stage, value: Any) -> None:
    @stage.app.task(name="store", batch=10)
    def store(requests: list[Any]) -> Any:
        return value

    calls = [store.delay(n) for n in range(2)]
    run(stage)
    for each in calls:
        with pytest.raises(TypeError, match="a list with one result for each of its 2 requests"):
            each.get(timeout=1)


def test_each_item_may_end_differently(stage: Stage) -> None:
    tries: list[list[int]] = []

    @stage.app.task(name="store", batch=10, max_retries=2)
    def store(requests: list[Any]) -> list[Any]:
        tries.append([each.args[0] for each in requests])
        ends = ["fine", ValueError("no good"), Retry(delay=5), Ignore(), Reject("not mine")]
        return ["again" if each.retries else ends[each.args[0]] for each in requests]

    calls = [store.delay(n) for n in range(5)]
    verdicts = run(stage)

    assert [type(each) for each in verdicts] == [Ack, Ack, Ack, Ack, Bury]
    assert [each.state for each in calls] == ["SUCCESS", "FAILURE", "RETRY", "PENDING", "REJECTED"]
    stage.clock.advance(6)
    run(stage)
    assert tries == [[0, 1, 2, 3, 4], [2]]
    assert calls[2].get(timeout=1) == "again"


def test_an_error_of_the_function_is_each_calls_own_with_retries(stage: Stage) -> None:
    @stage.app.task(
        name="store", batch=10, autoretry_for=(ConnectionError,), max_retries=1, default_retry_delay=5
    )
    def store(requests: list[Any]) -> None:
        raise ConnectionError("database away")

    calls = [store.delay(n) for n in range(3)]
    run(stage)
    assert [each.state for each in calls] == ["RETRY"] * 3
    stage.clock.advance(6)
    run(stage)
    assert [each.state for each in calls] == ["FAILURE"] * 3


def test_what_may_not_run_is_left_out_and_the_others_run(stage: Stage) -> None:
    handled: list[int] = []

    @stage.app.task(name="store", batch=10, rate_limit="1/h", rate_limit_key="kind")
    def store(requests: list[Any]) -> None:
        handled.extend(each.args[0] for each in requests)

    done = store.apply_async((3,), {"kind": "c"})
    [first] = stage.app.broker.receive("cloudq", 10, 0.0, 60.0)
    stage.carry_out(first, stage.app.lifecycle("w1").run(first, NoWatch()))
    expired = store.apply_async((0,), {"kind": "a"}, expires=10)
    stage.clock.advance(20)
    store.apply_async((1,), {"kind": "b"})
    store.apply_async((2,), {"kind": "b"})  # over the limit of its kind
    run(stage)

    assert handled == [3, 1]
    assert (expired.state, done.state) == ("REVOKED", "SUCCESS")
    assert stage.app.broker.depth("cloudq").delayed == 1


@pytest.mark.parametrize("looped", [False, True])
def test_what_was_collected_by_mistake_runs_as_what_it_is(stage: Stage, looped: bool) -> None:
    ran: list[Any] = []

    @stage.app.task(name="store", batch=10)
    def store(requests: list[Any]) -> None:
        ran.append(("store", [each.args[0] for each in requests]))

    @stage.app.task(name="other", batch=10)
    def other(requests: list[Any]) -> None:
        ran.append(("other", [each.args[0] for each in requests]))

    @stage.app.task(name="plain")
    def plain(number: int) -> int:
        ran.append(("plain", number))
        return number

    calls = [plain.delay(0), store.delay(1), other.delay(2), store.delay(3), plain.delay(4)]
    worker = stage.app.lifecycle("w1")
    if looped:
        verdicts = asyncio.run(batch.arun(worker, stage.receive(), NoWatch(), aio.to_thread))
    else:
        verdicts = batch.run(worker, stage.receive(), NoWatch())

    assert verdicts == [ACK] * 5
    assert ran == [("plain", 0), ("store", [1, 3]), ("other", [2]), ("plain", 4)]
    assert [each.get(timeout=1) for each in calls] == [0, None, None, None, 4]


def test_one_that_cannot_be_settled_does_not_concern_the_others(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    @stage.app.task(name="store", batch=10)
    def store(requests: list[Any]) -> list[int]:
        return [1, 2, 3]

    calls = [store.delay(n) for n in range(3)]
    deliveries = stage.receive()
    worker = stage.app.lifecycle("w1")
    real = worker.settler.settle

    def settle(ready: Any, outcome: Any) -> Any:
        if ready.envelope.args == (1,):
            raise RuntimeError("a bug")
        return real(ready, outcome)

    monkeypatch.setattr(worker.settler, "settle", settle)
    verdicts = batch.run(worker, deliveries, NoWatch())

    assert [type(each) for each in verdicts] == [Ack, Release, Ack]
    assert [each.state for each in calls] == ["SUCCESS", "PENDING", "SUCCESS"]


def test_the_death_of_the_process_is_judged_for_each(stage: Stage) -> None:
    @stage.app.task(name="store", batch=10)
    def store(requests: list[Any]) -> None: ...

    store.delay(1)
    store.delay(2)
    worker = stage.app.lifecycle("w1")
    verdicts = [worker.lost(each, Died("killed")) for each in stage.receive()]
    assert [type(each) for each in verdicts] == [Release, Release]


def test_early_acks_links_and_hooks_are_each_calls_own(stage: Stage) -> None:
    told: list[Any] = []

    @stage.app.task(name="tell")
    def tell(value: int) -> None:
        told.append(value)

    @stage.app.task(name="store", batch=10, acks_late=False)
    def store(requests: list[Any]) -> list[int]:
        assert stage.app.broker.depth("cloudq").total == 0
        return [each.args[0] for each in requests]

    stage.app.hooks.on("task_prerun", lambda request, **_: told.append(f"pre {request.args}"))
    store.apply_async((1,), link=tell.s())
    store.apply_async((2,), link=tell.s())
    assert run(stage) == [Ack(already=True)] * 2
    run_of_links = stage.app.lifecycle("w1")
    stage.run_all(run_of_links)
    assert told == ["pre (1,)", "pre (2,)", "pre (1,)", 1, "pre (2,)", 2]


async def _double(requests: list[Any]) -> list[int]:
    return [each.args[0] * 2 for each in requests]


def test_async_functions_and_bound_ones(stage: Stage) -> None:
    stage.app.task(name="double", batch=10)(_double)

    @stage.app.task(name="bound", batch=10, bind=True)
    def bound(self: Any, requests: list[Any]) -> list[str]:
        assert self.request.id is None
        return [f"{self.name} {each.args[0]}" for each in requests]

    call = stage.app.send_task("double", (4,))
    run(stage)
    assert call.get(timeout=1) == 8
    call = bound.delay(1)
    run(stage)
    assert call.get(timeout=1) == "bound 1"


def test_inline_and_where_nobody_collects_a_batch_is_one_call(stage: Stage) -> None:
    sizes: list[int] = []

    @stage.app.task(name="store", batch=10)
    def store(requests: list[Any]) -> list[int]:
        sizes.append(len(requests))
        return [each.args[0] for each in requests]

    assert store.apply((7,)).get() == 7
    call = store.delay(8)
    stage.run_all(stage.app.lifecycle("w1"))
    assert (call.get(timeout=1), sizes) == (8, [1, 1])


def test_the_sandbox_collects_batches(stage: Stage) -> None:
    sizes: list[int] = []

    @stage.app.task(name="store", batch=4)
    def store(requests: list[Any]) -> list[int]:
        sizes.append(len(requests))
        return [each.args[0] for each in requests]

    with sandbox(stage.app) as box:
        calls = [store.delay(n) for n in range(9)]
        ended = box.drain()
        assert [each.get(timeout=1) for each in calls] == list(range(9))
    assert (sizes, len(ended)) == ([4, 4, 1], 9)


# --- collecting ----------------------------------------------------------------------------------------


def message(task: str, number: int, queue: str = "q") -> Delivery:
    body = f'{{"task": "{task}", "id": "{number}"}}'
    return Delivery(queue, str(number), body, f"r{number}", 1, 0.0, 0.0, 0.0, 1e12)


@pytest.fixture
def tasks() -> Registry:
    app = CloudQ("t", broker="memory://", backend="memory://")

    @app.task(name="three", batch=3, batch_wait=60)
    def three(requests: list[Any]) -> None: ...

    @app.task(name="soon", batch=3, batch_wait=0.01)
    def soon(requests: list[Any]) -> None: ...

    @app.task(name="plain")
    def plain() -> None: ...

    return app.tasks


def test_a_full_batch_starts_at_once_and_queues_are_not_mixed(tasks: Registry) -> None:
    started: list[Batch] = []
    batches = Batches(tasks, lambda each: True, started.append, lambda each: True)
    assert not batches.add(message("plain", 0))
    assert not batches.add(message("unknown", 0))
    for number, queue in enumerate(["q", "p", "q", "p", "q"]):
        assert batches.add(message("three", number, queue))

    assert [[each.message_id for each in found.deliveries] for found in started] == [["0", "2", "4"]]
    assert len(batches) == 2
    assert [each.message_id for each in batches.close()] == ["1", "3"]
    assert not batches.add(message("three", 9))


def test_what_is_no_longer_ours_stays_behind_and_each_delivery_gets_its_end(tasks: Registry) -> None:
    started: list[Batch] = []
    batches = Batches(
        tasks, lambda each: each.message_id != "1", started.append, lambda each: each.message_id != "0"
    )
    for number in range(3):
        batches.add(message("three", number))
    [job] = started
    first, second = job.deliveries
    assert (first.message_id, second.message_id) == ("0", "2")
    assert batches.job_of(second) is job
    assert list(batches.ends(job, Died("killed"))) == [(first, Died("killed")), (second, Died("killed"))]
    assert batches.job_of(second) is second
    # the lease of the first was lost: a child then settles none, and the second has to run again
    ends = list(batches.ends(job, Finished([ABANDON, ABANDON])))
    assert ends == [(first, Finished(ABANDON)), (second, Finished(Release(0.0)))]
    alone = message("plain", 7)
    assert list(batches.ends(alone, Finished(ACK))) == [(alone, Finished(ACK))]


def test_a_batch_that_does_not_fill_starts_after_its_wait(tasks: Registry) -> None:
    started: list[Batch] = []
    there = threading.Event()

    def start(found: Batch) -> None:
        started.append(found)
        there.set()

    batches = Batches(tasks, lambda each: True, start, lambda each: True)
    batches.add(message("soon", 1))
    assert there.wait(10)
    assert len(started[0].deliveries) >= 1
    batches.close()
