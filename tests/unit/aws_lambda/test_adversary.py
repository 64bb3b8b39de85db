"""What could go wrong around the tasks of a batch, and must not cost the batch: services that hang, pieces that
fail, logs that cannot be written, orders that come while it runs."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from esm import Context, Mapping, record

from cloudq import CloudQ
from cloudq.aws_lambda import Handler, make_handler
from cloudq.aws_lambda.batch import in_phases
from cloudq.aws_lambda.budget import Budget
from cloudq.aws_lambda.crews import collect
from cloudq.aws_lambda.events import md5_of
from cloudq.aws_lambda.job import Job
from cloudq.aws_lambda.returns import Returns
from cloudq.aws_lambda.suspects import Suspects
from cloudq.brokers.base import Delivery, Message, Refused
from cloudq.control.deadletters import DeadLetters, Filter
from cloudq.control.revocations import Revocations
from cloudq.pools.threads import ThreadsPool
from cloudq.serializers.peek import Peek

#: Longest that anything here hangs, seconds: what waits for it has failed.
HANGS = 60.0


@pytest.fixture
def app() -> Iterator[CloudQ]:
    with CloudQ(
        "adversary", broker="memory://", backend="memory://", worker_lost_wait=0.0, control_interval=0.001
    ) as app:
        yield app


@pytest.fixture
def start(app: CloudQ) -> Iterator[Callable[..., Mapping]]:
    handlers: list[Handler] = []

    def make(*queues: str, concurrency: int = 1) -> Mapping:
        handlers.append(make_handler(app, concurrency=concurrency))
        return Mapping(app, handlers[-1], *queues)

    yield make
    for each in handlers:
        each.close()


@pytest.fixture
def hang() -> Iterator[tuple[Callable[..., None], threading.Event]]:
    """Something that hangs until the test is over, and whether it came to its end."""
    over, through = threading.Event(), threading.Event()

    def hangs(*_: Any, **__: Any) -> None:
        over.wait(HANGS)
        through.set()

    yield hangs, through
    over.set()


# --- what comes in ----------------------------------------------------------------------------------------


def spelled_as_received(given: dict[str, Any]) -> dict[str, Any]:
    names = {
        "messageId": "MessageId",
        "receiptHandle": "ReceiptHandle",
        "body": "Body",
        "attributes": "Attributes",
    }
    return {names.get(name, name): value for name, value in given.items()}


def wrapped(given: dict[str, Any]) -> dict[str, Any]:
    topic = "arn:aws:sns:us-east-1:123456789012:orders"
    body = json.dumps({"Type": "Notification", "TopicArn": topic, "Message": given["body"]})
    return {**given, "body": body, "md5OfBody": md5_of(body)}


SHAPES: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
    "a mapping's": lambda records: {"Records": records},
    "a pipe's": lambda records: records,
    "as received": lambda records: [spelled_as_received(each) for each in records],
    "wrapped by SNS": lambda records: {"Records": [wrapped(each) for each in records]},
    **{
        f"in {partition}": lambda records, partition=partition: {
            "Records": [
                {**each, "eventSourceARN": each["eventSourceARN"].replace("arn:aws:", f"arn:{partition}:")}
                for each in records
            ]
        }
        for partition in ("aws-cn", "aws-us-gov", "aws-iso-b")
    },
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_runs_its_task(app: CloudQ, start: Callable[..., Mapping], shape: str) -> None:
    @app.task
    def add(x: int) -> int:
        return x

    sent = [add.apply_async((n,), queue=queue) for n, queue in enumerate(("cloudq", "other_2"))]
    found = [each for queue in ("cloudq", "other_2") for each in app.broker.receive(queue, 10, 0.0, 60.0)]
    answer = start().handler(SHAPES[shape]([record(each) for each in found]), Context())

    assert answer == {"batchItemFailures": []}
    assert [each.get(timeout=1) for each in sent] == [0, 1]


# --- after the tasks --------------------------------------------------------------------------------------


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_an_error_that_cannot_be_told_costs_no_batch(
    app: CloudQ, start: Callable[..., Mapping], capsys: pytest.CaptureFixture[str]
) -> None:
    @app.task
    def fail() -> None:
        raise Mute

    sent = fail.delay()
    assert start().once() == []
    assert sent.state == "FAILURE"
    [line] = map(json.loads, capsys.readouterr().out.splitlines())
    assert line["error"] == "Mute: <its __str__ raised RuntimeError>"


def test_a_log_that_cannot_be_written_costs_no_batch(
    app: CloudQ, start: Callable[..., Mapping], monkeypatch: pytest.MonkeyPatch
) -> None:
    @app.task
    def add(x: int) -> int:
        return x

    sent = add.delay(1)
    mapping = start()
    closed = types.SimpleNamespace(write=lambda _: 1 / 0, flush=lambda: None)
    monkeypatch.setattr(sys, "stdout", closed)
    assert mapping.once() == []
    assert sent.get(timeout=1) == 1


def test_an_exporter_that_hangs_does_not_hold_up_the_answer(
    app: CloudQ,
    start: Callable[..., Mapping],
    monkeypatch: pytest.MonkeyPatch,
    hang: tuple[Callable[..., None], threading.Event],
) -> None:
    hangs, through = hang
    provider = types.SimpleNamespace(force_flush=hangs)
    fake = types.SimpleNamespace(get_tracer_provider=lambda: provider)
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", fake)  # type: ignore[arg-type]

    assert start().handler({"Records": []}, Context(0.5)) == {"batchItemFailures": []}
    assert not through.is_set()


def test_what_is_given_back_after_the_answer_may_be_somebody_elses(app: CloudQ) -> None:
    given_back: list[Any] = []
    broker = types.SimpleNamespace(release=given_back.append, capabilities=app.broker.capabilities)
    app.broker.send("cloudq", [Message("{}")])
    [delivery] = app.broker.receive("cloudq", 1, 0.0, 60.0)

    Returns(lambda: broker)._all([(delivery, 0.0)], until=time.monotonic() - 1)  # type: ignore[arg-type,return-value]
    assert given_back == []


# --- before and between them ------------------------------------------------------------------------------


def test_a_board_that_hangs_holds_up_no_task(
    app: CloudQ,
    start: Callable[..., Mapping],
    monkeypatch: pytest.MonkeyPatch,
    hang: tuple[Callable[..., None], threading.Event],
) -> None:
    @app.task
    def add(x: int) -> int:
        return x

    hangs, through = hang
    monkeypatch.setattr(Revocations, "look", hangs)
    monkeypatch.setattr("cloudq.aws_lambda.steering._LONGEST", 0.1)
    sent = add.delay(1)
    assert start().once() == []
    assert not through.is_set()
    assert sent.get(timeout=1) == 1


def test_a_look_that_could_not_be_begun_is_made_the_next_time(
    app: CloudQ, start: Callable[..., Mapping], monkeypatch: pytest.MonkeyPatch
) -> None:
    @app.task
    def add(x: int) -> int:
        return x

    mapping = start()
    with monkeypatch.context() as patch:
        patch.setattr("cloudq.aws_lambda.steering.aside", lambda *_: None)  # no thread to be had
        add.delay(1)
        assert mapping.once() == []
    sent = add.delay(2)
    app.control.revoke(sent.id)
    time.sleep(0.01)  # until the next look is due
    assert mapping.once() == []
    assert mapping.handler._steering._revocations.ids() == [sent.id]  # type: ignore[attr-defined]


def test_marks_that_cannot_be_read_in_time_hold_up_no_task(
    app: CloudQ,
    start: Callable[..., Mapping],
    monkeypatch: pytest.MonkeyPatch,
    hang: tuple[Callable[..., None], threading.Event],
) -> None:
    @app.task
    def add(x: int) -> int:
        return x

    hangs, through = hang
    monkeypatch.setattr(Suspects, "marked", hangs)
    monkeypatch.setattr("cloudq.aws_lambda.handler._LONGEST_LOOK", 0.1)
    sent = add.delay(1)
    app.broker.release(app.broker.receive("cloudq", 1, 0.0, 60.0))
    assert start().once() == []
    assert not through.is_set()
    assert sent.get(timeout=1) == 1


def test_what_cannot_be_started_goes_back_and_the_others_run(
    app: CloudQ, start: Callable[..., Mapping], monkeypatch: pytest.MonkeyPatch
) -> None:
    @app.task
    def add(x: int) -> int:
        return x

    plain = ThreadsPool.submit
    calls = iter(range(10))

    def submit(self: ThreadsPool, job: Any, done: Any) -> None:
        if next(calls) == 1:
            raise RuntimeError("can't start new thread")
        plain(self, job, done)

    monkeypatch.setattr(ThreadsPool, "submit", submit)
    sent = [add.delay(n) for n in range(3)]
    assert len(start(concurrency=2).once()) == 1
    assert [each.ready() for each in sent] == [True, False, True]
    assert app.broker.depth("cloudq").visible == 1


def redelivered(app: CloudQ) -> dict[str, Any]:
    """What is queued, received before, as an event."""
    app.broker.release(app.broker.receive("cloudq", 10, 0.0, 60.0))
    return {"Records": [record(each) for each in app.broker.receive("cloudq", 10, 0.0, 60.0)]}


@pytest.mark.parametrize("how", ["in part", "with an error"])
def test_a_deletion_that_fails_is_left_to_lambda(
    app: CloudQ, start: Callable[..., Mapping], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    @app.task
    def add(x: int) -> int:
        return x

    def ack(deliveries: Any) -> list[Refused]:
        if how == "with an error":
            raise RuntimeError("nobody expected this")
        return [Refused(each, "InternalError", "try again", lost=False) for each in deliveries]

    mapping = start()
    sent = [add.delay(n) for n in range(3)]
    event = redelivered(app)
    monkeypatch.setattr(app.broker, "ack", ack)
    assert mapping.handler(event, Context()) == {"batchItemFailures": []}
    assert [each.get(timeout=1) for each in sent] == [0, 1, 2]


def test_what_is_done_is_deleted_when_the_answer_can_only_fail_the_whole_batch(
    app: CloudQ, start: Callable[..., Mapping]
) -> None:
    @app.task
    def add(x: int) -> int:
        return x

    sent = add.delay(1)
    event = {"Records": [*(record(each) for each in app.broker.receive("cloudq", 10, 0.0, 60.0)), {}]}
    assert start().handler(event, Context()) == {"batchItemFailures": [{"itemIdentifier": ""}]}
    assert sent.get(timeout=1) == 1
    assert app.broker.depth("cloudq").total == 0


def test_nothing_of_a_fifo_group_overtakes_a_record_that_was_damaged(
    app: CloudQ, start: Callable[..., Mapping]
) -> None:
    ran: list[str] = []

    @app.task(queue="orders.fifo")
    def step(name: str) -> None:
        ran.append(name)

    for name in ("a1", "a2", "b1", "a3"):
        step.apply_async((name,), group_id=name[0])
    records = [record(each) for each in app.broker.receive("orders.fifo", 10, 0.0, 60.0)]
    [damaged] = [each for each in records if '"a2"' in each["body"]]
    damaged["body"] += " "
    answer = start().handler({"Records": records}, Context())

    assert sorted(ran) == ["a1", "b1"]
    behind = [each["messageId"] for each in records if '"a2"' in each["body"] or '"a3"' in each["body"]]
    assert {each["itemIdentifier"] for each in answer["batchItemFailures"]} == set(behind)


# --- orders that come while a batch runs ------------------------------------------------------------------


def test_a_task_that_is_revoked_while_another_of_its_batch_runs_is_not_run(
    app: CloudQ, start: Callable[..., Mapping]
) -> None:
    ran: list[int] = []

    @app.task
    def one(n: int) -> None:
        ran.append(n)
        if n == 0:
            app.control.revoke(second.id)
            time.sleep(0.01)  # until the next look is due

    one.delay(0)
    second = one.delay(1)
    assert start().once() == []
    assert ran == [0]
    assert second.state == "REVOKED"


@pytest.mark.parametrize("looped", [False, True], ids=["in a thread", "on the loop"])
def test_a_running_task_that_is_revoked_with_terminate_is_stopped(
    app: CloudQ, start: Callable[..., Mapping], looped: bool
) -> None:
    running = threading.Event()

    @app.task
    def endless() -> None:
        running.set()
        while True:
            time.sleep(0.01)

    @app.task
    async def aendless() -> None:
        running.set()
        await asyncio.sleep(1000)

    sent = (aendless if looped else endless).delay()

    def revoke() -> None:
        running.wait(HANGS)
        app.control.revoke(sent.id, terminate=True)

    helper = threading.Thread(target=revoke)
    helper.start()
    assert start().once(seconds=60.0) == []
    helper.join()
    assert sent.state == "REVOKED"


def test_a_running_task_that_is_revoked_without_terminate_is_left_alone(
    app: CloudQ, start: Callable[..., Mapping]
) -> None:
    ended: list[str] = []

    @app.task(bind=True)
    def own(self: Any) -> None:
        app.control.revoke(self.request.id)
        time.sleep(0.1)  # many looks
        ended.append(self.request.id)

    sent = own.delay()
    assert start().once() == []
    assert ended == [sent.id]


# --- batch tasks ------------------------------------------------------------------------------------------


def crews(*jobs: Job) -> list[list[str]]:
    return [[each.delivery.message_id for each in head.members] for head in collect(jobs)]


def call(name: str, *, task: str = "t", queue: str = "q", count: int = 1, takes: int = 3) -> Job:
    delivery = Delivery(queue, name, "{}", f"r-{name}", count, *[0.0] * 4)
    return Job(delivery, Peek(task, name), Budget(60.0), on_loop=False, takes=takes)


def test_calls_of_one_task_and_queue_go_together_up_to_what_it_takes() -> None:
    jobs = [call(f"a{n}") for n in range(4)]
    others = [call("b", task="u"), call("c", queue="p"), call("d", task="v", takes=1)]
    assert crews(*jobs, *others) == [["a0", "a1", "a2"], ["a3"], ["b"], ["c"], ["d"]]


def test_what_comes_again_or_has_its_order_runs_alone() -> None:
    found = crews(call("a"), call("again", count=2), call("b"), *(call(n, queue="q.fifo") for n in "xy"))
    assert found == [["a", "b"], ["again"], ["x"], ["y"]]


@pytest.mark.parametrize("looped", [False, True], ids=["in a thread", "on the loop"])
def test_a_batch_task_that_is_out_of_time_gives_all_its_calls_back(
    app: CloudQ, start: Callable[..., Mapping], monkeypatch: pytest.MonkeyPatch, looped: bool
) -> None:
    monkeypatch.setattr("cloudq.aws_lambda.budget.LEAST", 20.0)
    monkeypatch.setattr("cloudq.aws_lambda.budget.MOST", 0.99)

    @app.task(batch=5)
    def endless(requests: list[Any]) -> None:
        while True:
            time.sleep(0.005)

    @app.task(batch=5)
    async def aendless(requests: list[Any]) -> None:
        await asyncio.sleep(1000)

    sent = [(aendless if looped else endless).delay() for _ in range(3)]
    failed = start().once(seconds=20.3)
    assert len(failed) == 3
    assert not any(each.ready() for each in sent), "they are not at fault: another invocation runs them"


def test_each_call_of_a_batch_task_has_its_line_in_the_log(
    app: CloudQ, start: Callable[..., Mapping], capsys: pytest.CaptureFixture[str]
) -> None:
    @app.task(batch=5)
    def store(requests: list[Any]) -> list[Any]:
        return [ValueError("not this one") if each.args[0] == 1 else len(requests) for each in requests]

    sent = [store.delay(n) for n in range(3)]
    assert start().once() == []
    assert sent[0].get(timeout=1) == sent[2].get(timeout=1) == 3
    lines = [json.loads(each) for each in capsys.readouterr().out.splitlines()]
    assert [(each["task_id"], each["outcome"]) for each in lines] == [
        (sent[0].id, "SUCCESS"),
        (sent[1].id, "FAILURE"),
        (sent[2].id, "SUCCESS"),
    ]


# --- whose turn it is -------------------------------------------------------------------------------------


def jobs(**counts: int) -> list[Job]:
    return [
        Job(
            Delivery("q", name, "{}", f"r-{name}", count, *[0.0] * 4),
            Peek("t", name),
            Budget(60.0),
            on_loop=False,
        )
        for name, count in counts.items()
    ]


def names(phases: Any) -> list[list[str]]:
    return [[line[0].delivery.message_id for line in phase] for phase in phases]


def test_who_has_only_waited_is_first_so_that_nobody_waits_until_the_redrive_limit() -> None:
    batch = jobs(fresh=1, again=2, third=3, fourth=4, begun=5)
    batch[-1].begun_before = 1

    assert names(in_phases(batch, known=True)) == [["fourth", "third", "fresh"], ["again"], ["begun"]]


def test_where_nothing_tells_who_was_begun_what_comes_again_is_after_the_others() -> None:
    first, second = names(in_phases(jobs(fresh=1, third=3, again=2)))
    assert first == ["fresh"]
    assert sorted(second) == ["again", "third"]


def test_a_message_that_found_no_time_twice_is_run_before_newer_ones(
    app: CloudQ, start: Callable[..., Mapping]
) -> None:
    ran: list[str] = []

    @app.task(soft_time_limit=40)
    def long() -> None:
        ran.append("old")

    @app.task(soft_time_limit=40)
    def other() -> None:
        ran.append("new")

    long.delay()
    for _ in range(2):
        app.broker.release(app.broker.receive("cloudq", 10, 0.0, 60.0))
    other.delay()
    failed = start().once(seconds=35.0)  # less than its limit: only what the invocation begins with may run

    assert ran == ["old"]
    assert len(failed) == 1


# --- redriving --------------------------------------------------------------------------------------------


def test_redriving_stops_in_time_even_where_nothing_is_to_be_sent_back(app: CloudQ) -> None:
    app.broker.send("cloudq", [Message("{}") for _ in range(5)])
    for each in app.broker.receive("cloudq", 10, 0.0, 60.0):
        app.broker.bury(each, "rejected")
    asked: list[None] = []

    def stop() -> bool:
        asked.append(None)
        return len(asked) > 2

    assert DeadLetters(app.broker, "cloudq", wait=0.0).redrive(Filter(reason="other"), stop=stop) == 0
    assert len(asked) == 3
    assert app.broker.depth("cloudq-dlq").visible == 5


def test_a_slow_rate_does_not_outlast_the_function(app: CloudQ) -> None:
    app.broker.send("cloudq", [Message("{}") for _ in range(2)])
    for each in app.broker.receive("cloudq", 10, 0.0, 60.0):
        app.broker.bury(each, "rejected")
    sent: list[Any] = []
    letters = DeadLetters(app.broker, "cloudq", wait=0.0)

    count = letters.redrive(rate=0.001, progress=sent.append, stop=lambda: bool(sent))
    assert count == 1
    assert app.broker.depth("cloudq-dlq").visible == 1
