"""The handler, batch by batch: what runs, what is reported, when it comes again."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from esm import Context, Mapping, record

from cloudq import CloudQ
from cloudq.aws_lambda import Handler, make_handler
from cloudq.brokers.base import Delivery, Message, Refused
from cloudq.control.deadletters import DeadLetters
from cloudq.errors import AccessDenied, Ignore, Reject, ServiceUnavailable, SoftTimeLimitExceeded


@pytest.fixture
def app() -> Iterator[CloudQ]:
    with CloudQ("unit", broker="memory://", backend="memory://", worker_lost_wait=0.0) as app:
        yield app


@pytest.fixture
def start(app: CloudQ) -> Iterator[Callable[..., Mapping]]:
    """A mapping of the app's queues to a handler with these options."""
    handlers: list[Handler] = []

    def make(*queues: str, concurrency: int = 4, **options: Any) -> Mapping:
        handlers.append(make_handler(app, concurrency=concurrency, **options))
        return Mapping(app, handlers[-1], *queues)

    yield make
    for each in handlers:
        each.close()


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> float:
    """Seconds of an invocation whose tasks have 0.3 s of it, and that has ample time to answer after that."""
    monkeypatch.setattr("cloudq.aws_lambda.budget.LEAST", 20.0)
    monkeypatch.setattr("cloudq.aws_lambda.budget.MOST", 0.99)
    return 20.3


def dead(app: CloudQ, queue: str = "cloudq") -> list[Any]:
    return DeadLetters(app.broker, queue, wait=0.0).peek(10)


# --- verdicts ---------------------------------------------------------------------------------------------


def test_tasks_run_and_are_deleted(app: CloudQ, start: Callable[..., Mapping]) -> None:
    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    sent = [add.delay(n, n) for n in range(10)]

    assert start().once() == []
    assert [each.get(timeout=0.1) for each in sent] == [2 * n for n in range(10)]
    assert app.broker.depth("cloudq").total == 0


def test_a_failure_is_a_result_and_not_reported(app: CloudQ, start: Callable[..., Mapping]) -> None:
    @app.task
    def fail() -> None:
        raise ValueError("no")

    sent = fail.delay()
    assert start().once() == []
    with pytest.raises(ValueError, match="no"):
        sent.get(timeout=0.1)


def test_a_retry_on_a_standard_queue_is_a_new_message(app: CloudQ, start: Callable[..., Mapping]) -> None:
    @app.task(bind=True, autoretry_for=(OSError,), default_retry_delay=0.01, retry_jitter=False)
    def flaky(self: Any) -> int:
        if self.request.retries < 2:
            raise OSError("away")
        return int(self.request.receive_count)

    sent = flaky.delay()
    mapping = start()
    until = time.monotonic() + 10
    while not sent.ready() and time.monotonic() < until:
        assert mapping.once() == []

    assert sent.get(timeout=0.1) == 1


def test_a_retry_on_a_fifo_queue_keeps_its_place(app: CloudQ, start: Callable[..., Mapping]) -> None:
    ran: list[tuple[str, int]] = []

    @app.task(bind=True, queue="orders.fifo", autoretry_for=(OSError,), default_retry_delay=0.0)
    def step(self: Any, name: str) -> None:
        ran.append((name, self.request.retries))
        if name == "a1" and self.request.retries == 0:
            raise OSError("away")

    sent = [step.apply_async((name,), group_id=name[0]) for name in ("a1", "a2", "b1", "a3", "b2")]
    mapping = start("orders.fifo")

    assert len(mapping.once()) == 3, "a1, and a2 and a3 behind it, go back"
    assert sorted(ran) == [("a1", 0), ("b1", 0), ("b2", 0)]
    until = time.monotonic() + 10
    while not all(each.ready() for each in sent) and time.monotonic() < until:
        mapping.once()
    assert [name for name, _ in ran if name[0] == "a"] == ["a1", "a1", "a2", "a3"]
    assert [name for name, _ in ran if name[0] == "b"] == ["b1", "b2"]


def test_what_cannot_be_read_is_buried_and_not_reported(app: CloudQ, start: Callable[..., Mapping]) -> None:
    app.broker.send("cloudq", [Message("{ nonsense"), Message('{"task": "nobody"}')])

    assert start().once() == []
    assert sorted(each.reason for each in dead(app)) == ["undecodable", "unknown_task"]
    assert app.broker.depth("cloudq").total == 0


def test_reject_goes_to_the_dead_letters_and_requeue_comes_back(
    app: CloudQ, start: Callable[..., Mapping]
) -> None:
    @app.task(bind=True)
    def picky(self: Any, mode: str) -> None:
        if mode == "ignore":
            raise Ignore
        raise Reject("not today", requeue=mode == "requeue" and self.request.receive_count == 1)

    picky.delay("bury")
    picky.delay("requeue")
    picky.delay("ignore")
    mapping = start()

    assert len(mapping.once()) == 1
    assert [each.reason for each in dead(app)] == ["rejected"]
    assert mapping.once() == [], "it was visible again at once"
    assert len(dead(app)) == 2


def test_a_burial_without_a_dead_letter_queue_is_reported(
    app: CloudQ, start: Callable[..., Mapping], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cloudq.errors import NoDeadLetterQueue

    def bury(*_: Any) -> None:
        raise NoDeadLetterQueue("nowhere")

    app.broker.send("cloudq", [Message("{ nonsense")])
    monkeypatch.setattr(app.broker, "bury", bury)
    assert len(start().once()) == 1
    assert app.broker.depth("cloudq").delayed == 1


def test_an_early_acknowledgement_happens_before_the_task(app: CloudQ, start: Callable[..., Mapping]) -> None:
    depths: list[int] = []

    @app.task(acks_late=False)
    def once() -> None:
        depths.append(app.broker.depth("cloudq").total)
        raise OSError("whatever")

    once.delay()
    assert start().once() == []
    assert depths == [0]


def test_when_the_store_is_away_the_message_is_reported(
    app: CloudQ, start: Callable[..., Mapping], monkeypatch: pytest.MonkeyPatch
) -> None:
    @app.task
    def add(x: int) -> int:
        return x

    sent = add.delay(1)
    app.conf.worker_settle_timeout = 0.0
    mapping = start()

    def away(*_: Any, **__: Any) -> None:
        raise ServiceUnavailable("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(app.backend, "write", away)
        assert len(mapping.once()) == 1
    assert not sent.ready()
    assert app.broker.depth("cloudq").delayed == 1, "it waits before it comes again"


def test_no_permission_to_give_back_costs_only_delay(
    app: CloudQ,
    start: Callable[..., Mapping],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked = []

    def refuse(deliveries: Sequence[Delivery], delay: float = 0.0) -> list[Refused]:
        asked.append(len(deliveries))
        raise AccessDenied("not allowed")

    @app.task
    def back() -> None:
        raise Reject("later", requeue=True)

    monkeypatch.setattr(app.broker, "release", refuse)
    back.delay()
    mapping = start()
    assert len(mapping.once()) == 1
    back.delay()
    assert len(mapping.once()) == 1
    assert asked == [1], "asked once, not again"
    assert "sqs:ChangeMessageVisibility" in caplog.text


# --- batches ----------------------------------------------------------------------------------------------


def test_tasks_of_a_batch_run_side_by_side_up_to_the_limit(
    app: CloudQ, start: Callable[..., Mapping]
) -> None:
    three = threading.Barrier(3)
    lock = threading.Lock()
    running = most = 0

    @app.task
    def meet() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        three.wait(10)
        with lock:
            running -= 1

    for _ in range(9):
        meet.delay()
    assert start(concurrency=3).once() == []
    assert most == 3


def test_coroutines_of_a_batch_run_on_one_loop(app: CloudQ, start: Callable[..., Mapping]) -> None:
    loops: set[int] = set()
    together = 0

    @app.task
    async def doze(n: int) -> int:
        nonlocal together
        loops.add(id(asyncio.get_running_loop()))
        together += 1
        while together < 10:
            await asyncio.sleep(0.001)
        return n

    sent = [doze.delay(n) for n in range(10)]
    assert start(concurrency=1).once() == []
    assert [each.get(timeout=0.1) for each in sent] == list(range(10))
    assert len(loops) == 1


def test_several_queues_in_one_function(app: CloudQ, start: Callable[..., Mapping]) -> None:
    @app.task
    def where() -> None: ...

    first, second = where.apply_async(queue="a"), where.apply_async(queue="b")
    assert start("a", "b").once() == []
    assert first.ready()
    assert second.ready()


def test_a_batch_that_was_received_before_is_deleted_piece_by_piece(
    app: CloudQ, start: Callable[..., Mapping]
) -> None:
    """What kills the process must not take what is settled beside it to the dead letters."""
    left: list[int] = []

    @app.task
    def count() -> None:
        left.append(app.broker.depth("cloudq").total)

    for _ in range(3):
        count.delay()
    app.broker.release(app.broker.receive("cloudq", 10, 0.0, 60.0), 0.0)

    assert start(concurrency=1).once() == []
    assert left == [3, 2, 1]


def test_what_was_begun_and_never_concluded_runs_last_and_alone(
    app: CloudQ, start: Callable[..., Mapping]
) -> None:
    ran: list[tuple[int, int]] = []
    running = 0

    @app.task
    def work(n: int) -> None:
        nonlocal running
        running += 1
        time.sleep(0.02)
        ran.append((n, running))
        running -= 1

    for n in range(8):
        work.delay(n)
    mapping = start(concurrency=4)
    deliveries = app.broker.receive("cloudq", 10, 0.0, 60.0)
    app.broker.release(deliveries, 0.0)
    again = app.broker.receive("cloudq", 10, 0.0, 60.0)
    killers = [each for each in again if '"args":[3]' in each.body or '"args":[5]' in each.body]
    assert len(killers) == 2
    for each in killers:
        mapping.handler._suspects.mark(each)  # type: ignore[attr-defined]
    app.broker.release(again, 0.0)

    assert mapping.once() == []
    assert {n for n, _ in ran[-2:]} == {3, 5}
    assert [together for _, together in ran[-2:]] == [1, 1]
    assert len(ran) == 8


# --- time -------------------------------------------------------------------------------------------------


def test_what_does_not_fit_any_more_goes_back_unstarted_and_at_once(
    app: CloudQ, start: Callable[..., Mapping]
) -> None:
    ran: list[int] = []

    @app.task
    def long(n: int) -> None:
        ran.append(n)

    for n in range(4):
        long.delay(n)
    mapping = start(concurrency=1)
    for _ in range(50):
        mapping.handler._runner._durations.add(long.name, 100.0)  # type: ignore[attr-defined]
    failed = mapping.once(seconds=60)  # less than it takes as a rule: only the first may start

    assert ran == [0]
    assert len(failed) == 3
    assert app.broker.depth("cloudq").visible == 3


def test_the_invocations_end_strikes_as_a_soft_limit_and_the_task_comes_again(
    app: CloudQ, start: Callable[..., Mapping], hurried: float
) -> None:
    runs: list[str] = []

    @app.task
    def endless() -> None:
        try:
            while True:
                time.sleep(0.005)
        except SoftTimeLimitExceeded:
            runs.append("soft")
            raise

    sent = endless.delay()
    mapping = start()
    assert len(mapping.once(hurried)) == 1
    assert runs == ["soft"]
    assert not sent.ready(), "it is not at fault: another invocation runs it"


def test_a_task_may_use_the_soft_limit_to_end_well(
    app: CloudQ, start: Callable[..., Mapping], hurried: float
) -> None:
    @app.task
    def patient() -> str:
        try:
            while True:
                time.sleep(0.005)
        except SoftTimeLimitExceeded:
            return "as far as I came"

    sent = patient.delay()
    assert start().once(hurried) == []
    assert sent.get(timeout=0.1) == "as far as I came"


def test_a_coroutine_is_cut_short_too(app: CloudQ, start: Callable[..., Mapping], hurried: float) -> None:
    @app.task
    async def endless() -> None:
        await asyncio.sleep(60)

    sent = endless.delay()
    assert len(start().once(hurried)) == 1
    assert not sent.ready()


def test_a_tasks_own_limit_is_its_own_fault(app: CloudQ, start: Callable[..., Mapping]) -> None:
    @app.task(soft_time_limit=0.05)
    def slow() -> None:
        while True:
            time.sleep(0.005)

    sent = slow.delay()
    assert start().once(seconds=60) == []
    with pytest.raises(SoftTimeLimitExceeded):
        sent.get(timeout=0.1)


def test_a_task_that_nothing_stops_does_not_take_its_batch_down(
    app: CloudQ, start: Callable[..., Mapping], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloudq.aws_lambda.budget.LEAST", 4.0)
    monkeypatch.setattr("cloudq.aws_lambda.budget.MOST", 0.99)
    release = threading.Event()

    @app.task
    def stuck() -> str:
        release.wait()  # no exception reaches a thread in here
        return "too late"

    @app.task
    def quick() -> int:
        return 1

    first, second = stuck.delay(), quick.delay()
    mapping = start(concurrency=2)
    assert len(mapping.once(seconds=4.5)) == 1
    assert second.get(timeout=0.1) == 1
    # the next invocation has its threads, and the one that wakes up later settles nothing
    third, fourth = quick.delay(), quick.delay()
    app.broker.purge("cloudq-dlq")
    release.set()
    mapping.once(seconds=30)
    assert third.get(timeout=0.1) == fourth.get(timeout=0.1) == 1
    assert first.state in ("PENDING", "SUCCESS")


def test_a_task_that_never_fits_ends_as_lost_at_the_redrive_limit(
    app: CloudQ, start: Callable[..., Mapping], hurried: float
) -> None:
    from cloudq.errors import WorkerLostError

    @app.task
    def endless() -> None:
        while True:
            time.sleep(0.005)

    sent = endless.delay()
    mapping = start()
    assert len(mapping.once(hurried)) == 1
    for _ in range(3):
        app.broker.release(app.broker.receive("cloudq", 10, 0.0, 60.0), 0.0)
    assert mapping.once(hurried) == [], "the queue's limit is five receipts"
    with pytest.raises(WorkerLostError, match="raise the function's timeout"):
        sent.get(timeout=0.1)
    assert [each.reason for each in dead(app)] == ["worker_lost"]


def test_what_95_of_100_runs_stayed_under() -> None:
    from cloudq.aws_lambda.durations import Durations

    known = Durations()
    for n in range(100):
        known.add("t", n / 10)
    assert known.expected("t") == pytest.approx(9.6, abs=0.2), "of the last fifty"
    assert known.expected("u") is None


@pytest.mark.parametrize(
    ("seconds", "kept"), [(900.0, 45.0), (60.0, 3.0), (20.0, 1.5), (3.0, 1.5), (1.0, 0.5)]
)
def test_the_margin(seconds: float, kept: float) -> None:
    from cloudq.aws_lambda.budget import Budget

    budget = Budget(seconds, 0.0)
    assert seconds - budget.soft_at == pytest.approx(kept)
    assert budget.soft_at < budget.hard_at < budget.answer_at < budget.ends_at


# --- around it --------------------------------------------------------------------------------------------


def test_nothing_is_built_per_invocation(
    app: CloudQ, start: Callable[..., Mapping], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cloudq import assembly
    from cloudq.pools import threads

    @app.task
    def add(x: int) -> int:
        return x

    add.delay(1)
    mapping = start(concurrency=2)
    assert mapping.once() == []

    def build(*_: Any, **__: Any) -> None:
        raise AssertionError("built in an invocation")

    for name in (
        "broker_of",
        "backend_of",
        "codec_of",
        "store_of",
        "producer_of",
        "lifecycle_of",
        "control_of",
    ):
        monkeypatch.setattr(assembly, name, build)
    monkeypatch.setattr(threads.ThreadsPool, "__init__", build)
    before = threading.active_count()
    for n in range(5):
        sent = add.delay(n)
        assert mapping.once() == []
        assert sent.get(timeout=0.1) == n
    assert threading.active_count() == before


def test_a_revoked_task_is_not_run(app: CloudQ, start: Callable[..., Mapping]) -> None:
    @app.task
    def never() -> None:
        raise AssertionError("it ran")

    sent = never.apply_async(headers={"tenant": "a"})
    app.control.revoke_by_stamped_headers({"tenant": ["a"]})
    assert start().once() == []
    assert sent.state == "REVOKED"


def test_one_line_of_json_per_task_with_its_metrics(
    app: CloudQ, start: Callable[..., Mapping], capsys: pytest.CaptureFixture[str]
) -> None:
    @app.task
    def add(x: int) -> int:
        return x

    @app.task
    def fail() -> None:
        raise ValueError("broken")

    sent = add.delay(1)
    fail.delay()
    app.broker.send("cloudq", [Message("{")])
    start(concurrency=1).once()

    lines = {each["outcome"]: each for each in map(json.loads, capsys.readouterr().out.splitlines())}
    good, bad, buried = lines["SUCCESS"], lines["FAILURE"], lines["NOT_RUN"]
    assert good["task_id"] == sent.id
    assert good["aws_request_id"] == "request-1"
    assert (good["queue"], good["attempt"], good["receive_count"], good["Succeeded"]) == ("cloudq", 1, 1, 1)
    [metrics] = good["_aws"]["CloudWatchMetrics"]
    assert metrics["Dimensions"] == [["queue"], ["queue", "task"]]
    assert {each["Name"] for each in metrics["Metrics"]} == {"Duration", "QueueLatency", "Succeeded"}
    assert all(each["Name"] in good for each in metrics["Metrics"]), "the format wants a number for each"
    assert bad["error"] == "ValueError: broken"
    assert bad["level"] == "ERROR"
    assert (buried["reason"], buried["Buried"]) == ("undecodable", 1)


def test_spans_are_flushed_before_the_answer(
    app: CloudQ, start: Callable[..., Mapping], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    provider = types.SimpleNamespace(force_flush=asked.append)
    fake = types.SimpleNamespace(get_tracer_provider=lambda: provider)
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", fake)  # type: ignore[arg-type]

    start().handler({"Records": []}, Context(10.0))
    [left] = asked
    assert 0 < left < 10_000


def test_an_unforeseen_error_gives_the_whole_batch_back(
    app: CloudQ, start: Callable[..., Mapping], monkeypatch: pytest.MonkeyPatch
) -> None:
    mapping = start()
    monkeypatch.setattr("cloudq.aws_lambda.handler.parse", lambda *_: 1 / 0)
    assert mapping.handler({"Records": []}, None) == {"batchItemFailures": [{"itemIdentifier": ""}]}


def test_an_empty_batch_is_fine_without_a_context(start: Callable[..., Mapping]) -> None:
    assert start().handler({"Records": []}, None) == {"batchItemFailures": []}


def test_the_same_message_twice_in_a_batch_runs_once_at_a_time(
    app: CloudQ, start: Callable[..., Mapping]
) -> None:
    ran: list[int] = []

    @app.task
    def add(x: int) -> int:
        ran.append(x)
        return x

    add.delay(1)
    [delivery] = app.broker.receive("cloudq", 10, 0.0, 60.0)
    answer = start().handler({"Records": [record(delivery), record(delivery)]}, Context())
    assert answer == {"batchItemFailures": []}
    assert ran


def test_the_app_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    from cloudq.errors import ImproperlyConfigured

    (tmp_path / "lambda_shop.py").write_text(
        "from cloudq import CloudQ\napp = CloudQ('s', broker='memory://', backend='memory://')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("CLOUDQ_APP", raising=False)
    with pytest.raises(ImproperlyConfigured, match="CLOUDQ_APP"):
        make_handler()
    monkeypatch.setenv("CLOUDQ_APP", "lambda_shop:app")
    assert make_handler().app.main == "s"


def test_inside_lambda_a_missing_url_is_an_error_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    from cloudq.errors import ImproperlyConfigured

    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "f")
    with pytest.raises(ImproperlyConfigured, match="inside Lambda"):
        make_handler(CloudQ("x"))


@pytest.mark.parametrize(
    ("memory", "threads"), [("128", 1), ("1769", 1), ("3538", 2), ("10240", 5), ("", None)]
)
def test_threads_follow_the_functions_memory(
    monkeypatch: pytest.MonkeyPatch, memory: str, threads: int | None
) -> None:
    import os

    from cloudq.aws_lambda.pools import vcpus

    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", memory)
    assert vcpus() == (threads or os.cpu_count())
