"""Idempotent tasks: the work of a key is done once, and everybody who asks gets its outcome."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from drivers import DRIVERS
from stage import Stage

from cloudq import CloudQ, chord
from cloudq.backends.base import Condition, Version
from cloudq.errors import ImproperlyConfigured, SerializationError, ServiceUnavailable
from cloudq.execution.call import NoWatch
from cloudq.pools.base import Died
from cloudq.runtime.ready import Ready
from cloudq.runtime.verdict import ACK, Hold
from cloudq.testing.stores import MemoryStore


@pytest.fixture(params=DRIVERS)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    stage = Stage(driver=request.param)
    yield stage
    stage.close()


# --- declaring and calling -------------------------------------------------------------------------


def test_a_key_that_names_no_parameter_is_refused_at_declaration() -> None:
    app = CloudQ("t", broker="memory://", backend="memory://")
    with pytest.raises(ImproperlyConfigured, match="idempotency_key names 'ordr'.*parameters are: order"):

        @app.task(idempotency_key="ordr")
        def charge(order: int) -> None: ...


def test_claims_need_a_results_store() -> None:
    app = CloudQ("t", broker="memory://", backend="disabled://")

    @app.task(name="charge")
    def charge(order: int) -> None: ...

    with pytest.raises(ImproperlyConfigured, match=r"idempotency_key.*results store"):
        charge.apply_async((1,), idempotency_key="k")
    with pytest.raises(TypeError, match="idempotency_key of a call is text"):
        charge.apply_async((1,), idempotency_key=7)  # type: ignore[arg-type]
    charge.idempotent = True
    with pytest.raises(ImproperlyConfigured, match=r"task charge: idempotent=True.*results store"):
        app.lifecycle("w1")


# --- once ------------------------------------------------------------------------------------------


def test_two_calls_with_the_same_key_do_the_work_once_and_both_find_the_outcome(stage: Stage) -> None:
    @stage.app.task(name="charge", idempotency_key="order")
    def charge(order: int, note: str = "") -> str:
        stage.note()
        return f"receipt {len(stage.starts)}"

    calls = [charge.delay(1), charge.delay(1, note="again"), charge.delay(order=1), charge.delay(2)]
    stage.run_all(stage.app.lifecycle("w1"))

    assert [each.get(timeout=1) for each in calls] == ["receipt 1", "receipt 1", "receipt 1", "receipt 2"]


def test_a_key_given_at_the_call_counts_for_any_task_and_only_for_that_task(stage: Stage) -> None:
    @stage.app.task(name="a")
    def first() -> str:
        stage.note()
        return "a"

    @stage.app.task(name="b")
    def second() -> str:
        stage.note()
        return "b"

    calls = [task.apply_async(idempotency_key="k") for task in (first, first, second)]
    stage.run_all(stage.app.lifecycle("w1"))

    assert [each.get(timeout=1) for each in calls] == ["a", "a", "b"]
    assert len(stage.starts) == 2


def test_what_follows_a_call_follows_each_call_of_the_key(stage: Stage) -> None:
    told: list[str] = []

    @stage.app.task(name="tell")
    def tell(receipt: str, who: str) -> None:
        told.append(f"{who}: {receipt}")

    @stage.app.task(name="charge", idempotency_key="order")
    def charge(order: int) -> str:
        return "paid"

    charge.apply_async((1,), link=tell.s("ann"))
    charge.apply_async((1,), link=tell.s("bob"))
    stage.run_all(stage.app.lifecycle("w1"))

    assert sorted(told) == ["ann: paid", "bob: paid"]


def test_members_of_a_chord_with_one_key_are_one_run_and_all_arrive(stage: Stage) -> None:
    @stage.app.task(name="charge", idempotency_key="order", ignore_result=True)
    def charge(order: int) -> str:
        stage.note()
        return f"receipt {len(stage.starts)}"

    @stage.app.task(name="total")
    def total(receipts: list[str]) -> list[str]:
        return receipts

    result = chord([charge.s(1), charge.s(1), charge.s(2)], total.s()).delay()
    stage.run_all(stage.app.lifecycle("w1"))

    assert sorted(result.get(timeout=1)) == ["receipt 1", "receipt 1", "receipt 2"]


def test_a_failure_frees_the_key(stage: Stage) -> None:
    @stage.app.task(name="charge", idempotency_key="order", throws=(ValueError,))
    def charge(order: int) -> str:
        stage.note()
        if len(stage.starts) == 1:
            raise ValueError("card refused")
        return "paid"

    calls = [charge.delay(1), charge.delay(1), charge.delay(1)]
    stage.run_all(stage.app.lifecycle("w1"), seconds=1)  # at once, not when the claim has run out

    assert [each.state for each in calls] == ["FAILURE", "SUCCESS", "SUCCESS"]
    assert len(stage.starts) == 2


def test_a_task_that_retries_does_its_work_once(stage: Stage) -> None:
    @stage.app.task(name="charge", bind=True, idempotency_key="order", max_retries=3, default_retry_delay=5)
    def charge(self: Any, order: int) -> str:
        if self.request.retries < 2:
            self.retry()
        stage.note()
        return "paid"

    calls = [charge.delay(1), charge.delay(1)]
    stage.run_all(stage.app.lifecycle("w1"))

    assert [each.get(timeout=1) for each in calls] == ["paid", "paid"]
    assert len(stage.starts) == 1


def test_a_record_is_kept_as_long_as_the_task_says(stage: Stage) -> None:
    @stage.app.task(name="charge", idempotency_key="order", idempotency_expires=60)
    def charge(order: int) -> None:
        stage.note()

    worker = stage.app.lifecycle("w1")
    for pause in (0, 59, 2):
        stage.clock.advance(pause)
        charge.delay(1)
        stage.run_all(worker)
    assert len(stage.starts) == 2


def test_a_task_that_ignores_its_results_does_its_work_once_all_the_same(stage: Stage) -> None:
    @stage.app.task(name="charge", idempotency_key="order", ignore_result=True)
    def charge(order: int) -> None:
        stage.note()

    calls = [charge.delay(1), charge.delay(1)]
    stage.run_all(stage.app.lifecycle("w1"))

    assert len(stage.starts) == 1
    assert [stage.app.read(each.id) for each in calls] == [None, None]


def test_a_result_that_cannot_be_stored_is_a_failure_and_frees_the_key(stage: Stage) -> None:
    @stage.app.task(name="charge", idempotency_key="order")
    def charge(order: int) -> object:
        stage.note()
        return object() if len(stage.starts) == 1 else "paid"

    first = charge.delay(1)
    stage.run_all(worker := stage.app.lifecycle("w1"))
    second = charge.delay(1)
    stage.run_all(worker)

    with pytest.raises(SerializationError):
        first.get(timeout=1)
    assert second.get(timeout=1) == "paid"


# --- side by side, and when somebody dies -------------------------------------------------------------


def test_while_one_works_on_a_key_the_others_come_back_later(stage: Stage) -> None:
    @stage.app.task(name="charge", idempotency_key="order")
    def charge(order: int) -> str:
        return "paid"

    charge.delay(1)
    later = charge.delay(1)
    first, second = stage.receive()
    one, two = stage.app.lifecycle("w1"), stage.app.lifecycle("w2")
    ready = one.prepare(first)
    assert isinstance(ready, Ready)
    assert two.run(second, NoWatch()) == ACK  # sent on
    stage.app.broker.ack([second])
    assert later.state == "PENDING"

    one.settle(ready, one.execute(ready, NoWatch()))
    stage.run_all(two)
    assert later.get(timeout=1) == "paid"


def test_a_second_delivery_of_the_same_message_waits_for_the_first_and_is_dropped(stage: Stage) -> None:
    @stage.app.task(name="charge", idempotent=True)
    def charge(order: int) -> str:
        stage.note()
        return "paid"

    result = charge.delay(1)
    [first] = stage.receive()
    one, two = stage.app.lifecycle("w1"), stage.app.lifecycle("w2")
    ready = one.prepare(first)
    assert isinstance(ready, Ready)
    stage.app.broker.release([first])  # its lease was lost: somebody else gets it
    [again] = stage.receive()
    verdict = two.run(again, NoWatch())
    assert isinstance(verdict, Hold)

    assert one.settle(ready, one.execute(ready, NoWatch())) == ACK
    assert two.run(again, NoWatch()) == ACK
    assert (len(stage.starts), result.get(timeout=1)) == (1, "paid")


def test_the_claim_of_a_worker_that_died_is_taken_over_after_its_lease(stage: Stage) -> None:
    @stage.app.task(name="charge", idempotency_key="order")
    def charge(order: int) -> str:
        stage.note()
        return "paid"

    charge.delay(1)
    [taken] = stage.receive()
    assert isinstance(stage.app.lifecycle("dead").prepare(taken), Ready)
    began = stage.clock.time()
    stage.app.broker.extend([taken], 10_000)
    other = charge.delay(1)
    stage.run_all(stage.app.lifecycle("w2"), seconds=1000)

    assert other.get(timeout=1) == "paid"
    assert 60 <= stage.starts[0] - began < 120


def test_the_claim_of_a_child_that_died_is_free_at_once(stage: Stage) -> None:
    @stage.app.task(name="charge", idempotency_key="order")
    def charge(order: int) -> str:
        return "paid"

    charge.delay(1)
    [taken] = stage.receive()
    worker = stage.app.lifecycle("w1")
    assert isinstance(worker.prepare(taken), Ready)
    verdict = worker.lost(taken, Died("killed by signal 9"))
    stage.carry_out(taken, verdict)
    stage.clock.advance(1.1)
    [again] = stage.receive()

    assert isinstance(worker.prepare(again), Ready)


def test_who_lost_the_claim_while_it_ran_records_nothing_and_takes_the_new_owners_outcome(
    stage: Stage,
) -> None:
    @stage.app.task(name="charge", idempotency_key="order")
    def charge(order: int) -> str:
        stage.note()
        return f"receipt {len(stage.starts)}"

    slow_call, fast_call = charge.delay(1), charge.delay(1)
    first, second = stage.receive()
    slow, fast = stage.app.lifecycle("slow"), stage.app.lifecycle("fast")
    ready = slow.prepare(first)
    assert isinstance(ready, Ready)
    outcome = slow.execute(ready, NoWatch())
    stage.clock.advance(100)  # it was paused, and its lease ran out
    taken = fast.prepare(second)
    assert isinstance(taken, Ready)

    assert slow.settle(ready, outcome) == ACK  # sent on: the new owner is still at work
    assert slow_call.state == "PENDING"
    assert fast.settle(taken, fast.execute(taken, NoWatch())) == ACK
    assert slow.settle(ready, outcome) == ACK  # had it been a little later
    assert (slow_call.get(timeout=1), fast_call.get(timeout=1)) == ("receipt 2", "receipt 2")


class Breaking(MemoryStore):
    """A store that fails at one kind of key, before or after the write."""

    fails: str = ""
    after: bool = False

    def write(self, key: str, value: bytes, when: Condition = ..., expires_at: Any = None) -> Version:  # type: ignore[assignment]
        hit = bool(self.fails) and key.startswith(self.fails)
        if hit and not self.after:
            raise ServiceUnavailable("cut off before the write")
        version = super().write(key, value, when, expires_at)
        if hit:
            raise ServiceUnavailable("cut off after the write")
        return version


def test_a_death_between_the_keys_record_and_the_tasks_own_costs_no_second_run(stage: Stage) -> None:
    store = Breaking(stage.clock)
    with stage.app.using(backend=store, worker_settle_timeout=0.0):

        @stage.app.task(name="charge", idempotency_key="order")
        def charge(order: int) -> str:
            stage.note()
            return "paid"

        result = charge.delay(1)
        [delivery] = stage.receive()
        worker = stage.app.lifecycle("w1")
        store.fails = "task/"
        stage.carry_out(delivery, worker.run(delivery, NoWatch()))  # given back: its record was not written
        store.fails = ""
        stage.run_all(stage.app.lifecycle("w2"))

        assert (len(stage.starts), result.get(timeout=1)) == (1, "paid")


def test_a_tasks_serializer_writes_what_is_kept_for_the_key(stage: Stage) -> None:
    stage.app.conf.accept_content = ["json", "msgpack"]

    @stage.app.task(name="blob", idempotency_key="n", result_serializer="msgpack")
    def blob(n: int) -> bytes:
        return b"\x00\xff"

    calls = [blob.delay(1), blob.delay(1)]
    stage.run_all(stage.app.lifecycle("w1"))

    assert [each.get(timeout=1) for each in calls] == [b"\x00\xff"] * 2


def test_inline_calls_run_every_time(stage: Stage) -> None:
    @stage.app.task(name="charge", idempotency_key="order")
    def charge(order: int) -> None:
        stage.note()

    charge.apply((1,))
    charge.apply((1,))
    assert len(stage.starts) == 2
