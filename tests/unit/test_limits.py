"""Rate limits and max_concurrency: what may not start yet comes back in time, once, and is never lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from drivers import DRIVERS
from stage import Stage

from cloudq import CloudQ
from cloudq.brokers.base import QueueSpec
from cloudq.errors import ImproperlyConfigured, LeaseLost, ServiceUnavailable
from cloudq.execution.call import NoWatch
from cloudq.runtime.keeper import Keeper
from cloudq.runtime.limits import BOOKED, DEFERRED, deferred
from cloudq.runtime.ready import Ready
from cloudq.runtime.verdict import ACK, Bury, Hold
from cloudq.testing import sandbox
from cloudq.testing.clock import ManualClock


@pytest.fixture(params=DRIVERS)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    stage = Stage(driver=request.param)
    yield stage
    stage.close()


# --- declaring -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rate_limit": "fast"}, "a rate is a number above 0"),
        ({"rate_limit": True}, "a rate is a number"),
        ({"rate_limit": "1/s", "rate_limit_scope": "worlwide"}, '"worker" or "global"'),
        ({"rate_limit": "1/s", "rate_limit_key": "tenat"}, "parameters are: tenant, size"),
        ({"rate_limit": "1/s", "rate_limit_key": 7}, "a parameter's name"),
        ({"max_concurrency": 0}, "max_concurrency is 1 or more"),
        ({"max_concurrency": 2, "max_concurrency_key": "who"}, "max_concurrency_key names 'who'"),
    ],
)
def test_a_limit_that_cannot_be_meant_is_refused_at_declaration(options: dict[str, Any], said: str) -> None:
    app = CloudQ("t", broker="memory://", backend="memory://")
    with pytest.raises(ImproperlyConfigured, match=said):

        @app.task(**options)
        def send(tenant: str, size: int = 1) -> None: ...


def test_a_limit_across_workers_needs_a_results_store() -> None:
    app = CloudQ("t", broker="memory://", backend="disabled://")

    @app.task(name="send", max_concurrency=2)
    def send() -> None: ...

    with pytest.raises(ImproperlyConfigured, match=r"task send: max_concurrency.*results store"):
        app.lifecycle("w1")


# --- rates -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["worker", "global"])
def test_no_more_starts_than_the_rate_and_each_message_is_deferred_about_once(
    stage: Stage, scope: str
) -> None:
    @stage.app.task(name="send", rate_limit="2/s", rate_limit_scope=scope)
    def send() -> None:
        stage.note()

    stage.app.send_many([send.s() for _ in range(300)])
    handled = stage.run_all(stage.app.lifecycle("w1"))

    assert len(stage.starts) == 300
    assert stage.most_within(10) <= 2 * 10 + 2
    assert stage.starts[-1] - stage.starts[0] < 300 / 2 * 1.15
    assert handled < 2.2 * 300


def test_a_global_rate_holds_for_all_workers_together_and_one_per_worker_for_each(stage: Stage) -> None:
    @stage.app.task(name="all", rate_limit="2/s", rate_limit_scope="global", queue="all")
    def everybody() -> None:
        stage.note()

    @stage.app.task(name="each", rate_limit="2/s", queue="each")
    def each_worker() -> None:
        stage.note()

    workers = [stage.app.lifecycle(f"w{n}") for n in range(4)]
    stage.app.send_many([everybody.s() for _ in range(200)])
    handled = stage.run_all(*workers, queue="all")
    assert (len(stage.starts), stage.most_within(10) <= 22, handled < 600) == (200, True, True)

    stage.starts.clear()
    stage.app.send_many([each_worker.s() for _ in range(400)])
    stage.run_all(*workers, queue="each")
    assert 40 < stage.most_within(10) <= 4 * 22


def test_each_key_has_a_limit_of_its_own(stage: Stage) -> None:
    at: dict[str, list[float]] = {"a": [], "b": []}

    @stage.app.task(name="send", rate_limit="1/s", rate_limit_scope="global", rate_limit_key="tenant")
    def send(number: int, tenant: str = "a") -> None:
        at[tenant].append(stage.clock.time())

    for number in range(10):
        send.delay(number)
    send.delay(0, "b")
    stage.run_all(stage.app.lifecycle("w1"))

    assert at["b"][0] == at["a"][0]
    assert at["a"][-1] - at["a"][0] >= 8.5


def test_a_key_function_that_fails_has_the_message_buried(stage: Stage) -> None:
    @stage.app.task(name="send", rate_limit="1/s", rate_limit_key=lambda order: order["tenant"])
    def send(order: dict[str, str]) -> None: ...

    send.delay({})
    [delivery] = stage.receive()
    verdict = stage.app.lifecycle("w1").run(delivery, NoWatch())

    assert isinstance(verdict, Bury)
    assert "rate_limit_key of task send gives no key: KeyError: 'tenant'" in verdict.detail


def test_a_limit_of_one_task_does_not_hold_up_another(stage: Stage) -> None:
    ran: list[str] = []

    @stage.app.task(name="slow", rate_limit="1/h")
    def slow() -> None:
        ran.append("slow")

    @stage.app.task(name="free")
    def free() -> None:
        ran.append("free")

    for _ in range(5):
        slow.delay()
    free.delay()
    stage.run_all(stage.app.lifecycle("w1"), seconds=1)

    assert ran == ["slow", "free"]
    assert stage.app.broker.depth("cloudq").in_flight == 0


def test_settings_give_a_default_rate_and_switch_limits_off(stage: Stage) -> None:
    @stage.app.task(name="any")
    def any_task() -> None:
        stage.note()

    @stage.app.task(name="unlimited", rate_limit=0)
    def unlimited() -> None:
        stage.note()

    stage.app.conf.task_default_rate_limit = "1/h"
    worker = stage.app.lifecycle("w1")
    for task in (any_task, any_task, any_task, unlimited, unlimited, unlimited):
        task.delay()
    stage.run_all(worker, seconds=1)
    assert len(stage.starts) == 1 + 3

    stage.app.conf.worker_disable_rate_limits = True
    stage.clock.advance(10 * 3600)
    stage.run_all(worker, seconds=1)
    assert len(stage.starts) == 6


def test_a_rate_that_is_changed_while_the_worker_runs_is_kept_to(stage: Stage) -> None:
    @stage.app.task(name="send", rate_limit="1/h")
    def send() -> None:
        stage.note()

    worker = stage.app.lifecycle("w1")
    send.delay()
    stage.run_all(worker, seconds=1)
    send.rate_limit = "100/s"
    for _ in range(20):
        send.delay()
    stage.run_all(worker, seconds=1)

    assert len(stage.starts) == 21


# --- how a message waits ----------------------------------------------------------------------------


def test_a_deferral_is_a_re_publish_with_the_same_id_and_try_that_burns_no_receipt(stage: Stage) -> None:
    @stage.app.task(name="send", rate_limit="1/m")
    def send(number: int) -> int:
        return number

    worker = stage.app.lifecycle("w1")
    send.delay(1)
    waiting = send.apply_async((2,), group_id="tenant-a", headers={"x": 1})
    first, second = stage.receive()
    stage.carry_out(first, worker.run(first, NoWatch()))
    assert worker.run(second, NoWatch()) == ACK
    stage.app.broker.ack([second])

    stage.clock.advance(120)
    [again] = stage.receive()
    assert (again.receive_count, again.group_id, again.message_id != second.message_id) == (
        1,
        "tenant-a",
        True,
    )
    ready = worker.prepare(again)
    assert isinstance(ready, Ready)
    assert (ready.envelope.id, ready.envelope.retries, ready.envelope.headers["x"]) == (waiting.id, 0, 1)
    assert ready.envelope.headers[DEFERRED] == 1


def test_a_death_between_publishing_and_deleting_leaves_one_duplicate_that_is_recognised(
    stage: Stage,
) -> None:
    @stage.app.task(name="send", rate_limit="1/m")
    def send(number: int) -> int:
        stage.note()
        return number

    send.delay(1)
    stage.run_all(worker := stage.app.lifecycle("w1"))
    result = send.delay(2)
    for _ in range(3):  # the worker dies each time just before it deletes the message
        [delivery] = stage.receive()
        worker.run(delivery, NoWatch())
        stage.clock.advance(0.001)
        stage.comes_again(delivery)
    assert stage.app.broker.depth("cloudq").total == 2  # not four: what may have a copy gets no other one

    stage.run_all(worker)

    assert len(stage.starts) == 2  # once for each call
    assert result.get(timeout=1) == 2
    assert stage.app.broker.depth("cloudq").total == 0


def test_the_copy_too_is_recognised_when_the_original_is_quicker(stage: Stage) -> None:
    @stage.app.task(name="send", rate_limit="1/m")
    def send(number: int) -> None:
        stage.note()

    worker = stage.app.lifecycle("w1")
    send.delay(1)
    stage.run_all(worker)
    send.delay(2)
    [original] = stage.receive()
    assert worker.run(original, NoWatch()) == ACK
    stage.app.broker.release([original])  # it died before it deleted the message
    stage.clock.advance(300)
    found = sorted(stage.receive(), key=lambda each: -each.receive_count)
    assert [each.receive_count for each in found] == [2, 1]
    for each in found:
        stage.carry_out(each, worker.run(each, NoWatch()))

    assert len(stage.starts) == 2
    assert stage.app.broker.depth("cloudq").total == 0


def test_what_was_received_before_waits_where_it_is_until_its_last_receipt(stage: Stage) -> None:
    broker: Any = stage.app.broker
    broker.create_queue(QueueSpec("cloudq", max_receive_count=3))

    @stage.app.task(name="send", rate_limit="1/m")
    def send() -> None: ...

    worker = stage.app.lifecycle("w1")
    send.delay()
    stage.run_all(worker)
    send.delay()
    verdicts = []
    for _ in range(3):
        [delivery] = stage.receive()
        if delivery.receive_count > 1:
            verdicts.append(worker.prepare(delivery))
        stage.app.broker.release([delivery])  # it died before it did as it was told

    assert isinstance(verdicts[0], Hold)
    assert verdicts[1] == ACK  # its next receipt would be its burial
    assert stage.app.broker.depth("cloudq").delayed == 1


def test_a_message_of_a_fifo_queue_keeps_its_place(stage: Stage) -> None:
    order: list[int] = []

    @stage.app.task(name="send", rate_limit="1/s", queue="orders.fifo")
    def send(number: int) -> None:
        order.append(number)

    for number in range(5):
        send.apply_async((number,), group_id="g")
    worker = stage.app.lifecycle("w1")
    stage.run_all(worker, queue="orders.fifo")

    assert order == [0, 1, 2, 3, 4]


def test_who_came_as_told_and_found_nothing_is_next_in_line_not_last(stage: Stage) -> None:
    @stage.app.task(name="send", rate_limit="1/m", rate_limit_scope="global")
    def send() -> None: ...

    limits = stage.app.lifecycle("w1").admission.limits
    call = stage.app.producer.prepare("send", (), None, {}).envelope
    assert limits.ask(send, call) is None
    found: Any = [limits.ask(send, call) for _ in range(100)][-1]
    assert found.due - stage.clock.time() > 99 * 60
    again: Any = limits.ask(send, deferred(call, stage.clock.time()))
    assert again.due - stage.clock.time() < 2 * 60


def test_a_message_that_expires_before_its_turn_is_told_so_at_its_expiry(stage: Stage) -> None:
    @stage.app.task(name="send", rate_limit="1/h")
    def send() -> None: ...

    send.delay()
    late = send.apply_async(expires=60)
    stage.run_all(stage.app.lifecycle("w1"), seconds=61)

    assert late.state == "REVOKED"


def test_a_retry_stands_in_line_anew(stage: Stage) -> None:
    @stage.app.task(name="send", bind=True, rate_limit="1/m", max_retries=1, default_retry_delay=1)
    def send(self: Any) -> int:
        if self.request.retries == 0:
            self.retry()
        assert BOOKED not in self.request.headers or self.request.headers[DEFERRED] == 1
        return int(self.request.retries)

    first, second = send.delay(), send.delay()
    stage.run_all(stage.app.lifecycle("w1"))

    assert (first.get(timeout=1), second.get(timeout=1)) == (1, 1)


def test_the_hooks_hear_of_a_call_once_however_often_it_is_deferred(stage: Stage) -> None:
    @stage.app.task(name="send", rate_limit="1/s")
    def send() -> None: ...

    with sandbox(stage.app) as box:
        for _ in range(5):
            send.delay()
        box.drain()
        assert len(box.assert_sent("send", times=5)) == 5


def test_inline_calls_know_no_limits(stage: Stage) -> None:
    @stage.app.task(name="send", rate_limit="1/h", max_concurrency=1)
    def send(number: int) -> int:
        return number

    assert [send.apply((n,)).get() for n in range(3)] == [0, 1, 2]


# --- so many at a time -------------------------------------------------------------------------------


def test_no_more_run_at_a_time_than_max_concurrency_over_all_workers(stage: Stage) -> None:
    @stage.app.task(name="heavy", max_concurrency=2)
    def heavy() -> None: ...

    workers = [stage.app.lifecycle(f"w{n}") for n in range(3)]
    for _ in range(3):
        heavy.delay()
    first, second, third = stage.receive()
    ready = [worker.prepare(d) for worker, d in zip(workers, (first, second), strict=False)]
    assert all(isinstance(each, Ready) for each in ready)
    assert workers[2].prepare(third) == ACK  # sent on
    stage.app.broker.ack([third])

    assert isinstance(ready[0], Ready)
    workers[0].leave(ready[0])
    stage.clock.advance(5)
    [again] = stage.receive()
    assert isinstance(workers[2].prepare(again), Ready)


def test_a_place_is_free_again_however_the_task_ends(stage: Stage) -> None:
    @stage.app.task(name="heavy", max_concurrency=1, bind=True, max_retries=1, default_retry_delay=0)
    def heavy(self: Any, how: str) -> str:
        if how == "retry" and self.request.retries == 0:
            self.retry()
        if how == "fail":
            raise ValueError(how)
        return how

    worker = stage.app.lifecycle("w1")
    for how in ("fail", "retry", "well"):
        heavy.delay(how)
    # handled one after the other, so nobody ever found the place taken
    assert stage.run_all(worker) == 4


def test_the_place_of_a_dead_worker_is_given_away_after_its_lease(stage: Stage) -> None:
    @stage.app.task(name="heavy", max_concurrency=1)
    def heavy() -> None:
        stage.note()

    heavy.delay()
    [taken] = stage.receive()
    assert isinstance(stage.app.lifecycle("dead").prepare(taken), Ready)
    began = stage.clock.time()
    heavy.delay()
    stage.app.broker.extend([taken], 3600)
    stage.run_all(stage.app.lifecycle("w2"), seconds=300)

    assert len(stage.starts) == 1
    assert 60 <= stage.starts[0] - began < 200


def test_the_message_of_a_dead_worker_gets_its_own_place_back_at_once(stage: Stage) -> None:
    @stage.app.task(name="heavy", max_concurrency=1)
    def heavy() -> None: ...

    heavy.delay()
    [taken] = stage.receive()
    assert isinstance(stage.app.lifecycle("dead").prepare(taken), Ready)
    stage.app.broker.release([taken])
    [again] = stage.receive()

    assert isinstance(stage.app.lifecycle("w2").prepare(again), Ready)


def test_a_child_that_died_frees_its_place(stage: Stage) -> None:
    from cloudq.pools.base import Died

    @stage.app.task(name="heavy", max_concurrency=1, reject_on_worker_lost=False)
    def heavy() -> None: ...

    heavy.delay()
    heavy.delay()
    first, second = stage.receive()
    parent, child = stage.app.lifecycle("w1"), stage.app.lifecycle("w1")
    assert isinstance(child.prepare(first), Ready)
    parent.lost(first, Died("killed by signal 9"))

    assert isinstance(child.prepare(second), Ready)


def test_those_who_find_no_place_come_back_one_after_the_other(stage: Stage) -> None:
    @stage.app.task(name="heavy", max_concurrency=10)
    def heavy() -> None: ...

    stage.app.conf.task_lease_time = 1e6
    limits = stage.app.lifecycle("w1").admission.limits

    def asked(number: int, times: int = 0) -> Any:
        envelope = stage.app.producer.prepare("heavy", (), None, {"task_id": f"t{number}"}).envelope
        for _ in range(times):
            envelope = deferred(envelope, 0.0)
        return limits.ask(heavy, envelope)

    def rests(times: int) -> list[float]:
        now = stage.clock.time()
        return [asked(number, times).due - now for number in range(10, 510)]

    places = [asked(number) for number in range(10)]
    guessed = rests(0)  # nobody knows yet how long a run takes: rather too soon
    assert len({round(each, 3) for each in guessed}) == 500
    assert max(guessed) < 10

    stage.clock.advance(600)
    later = rests(4)  # still none has ended: they must be long
    assert max(later) > 10 * max(guessed)

    stage.clock.advance(max(later) - 600 + 600)
    for each in places:
        limits.leave(each)
    places = [asked(number) for number in range(10)]
    stage.clock.advance(60)
    limits.leave(places.pop())
    asked(1000)
    mean = limits._runtimes["heavy"]
    known = rests(1)
    assert max(known) == pytest.approx(500 * 0.9 * mean / 10, rel=0.1)

    patient = rests(5)  # told so often: next in line, and not all at once
    assert max(patient) < 10 * mean
    assert len({round(each, 3) for each in patient}) > 400


# --- the keeper --------------------------------------------------------------------------------------


def test_what_a_running_task_holds_is_renewed_until_it_is_dropped() -> None:
    clock = ManualClock()
    keeper, renewed = Keeper(clock), []
    kept = keeper.keep("it", 30, lambda: renewed.append(clock.time()))
    keeper.beat()
    assert not renewed
    for _ in range(3):
        clock.advance(10)
        keeper.beat()
        keeper.beat()
    assert len(renewed) == 3
    assert keeper.drop(kept)
    clock.advance(100)
    keeper.beat()
    assert len(renewed) == 3


def test_a_lost_lease_is_told_at_its_end_and_an_absent_store_is_tried_again() -> None:
    clock = ManualClock()
    keeper, answers = Keeper(clock), [ServiceUnavailable("away"), None, LeaseLost("gone")]

    def renew() -> None:
        answer = answers.pop(0)
        if answer is not None:
            raise answer

    kept = keeper.keep("it", 30, renew)
    for _ in range(4):
        clock.advance(10)
        keeper.beat()
    assert not answers
    assert not keeper.drop(kept)
