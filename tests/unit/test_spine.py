"""From a call to a result, in this process: the app, the producer, the lifecycle, inline runs."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from drivers import DRIVERS, Drivers

from cloudq import CloudQ, Ignore, Reject, Task, states
from cloudq.brokers.base import Delivery
from cloudq.errors import (
    ImproperlyConfigured,
    InvalidArguments,
    MaxRetriesExceededError,
    MessageError,
    MessageTooLarge,
    NotRegistered,
    SerializationError,
    TaskRevokedError,
    TimeoutError,
    Unsupported,
)
from cloudq.execution.call import NoWatch
from cloudq.runtime.verdict import Ack, Bury, Release
from cloudq.testing.clock import ManualClock


class Bench:
    """An app on memory with a clock, and a hand-driven worker."""

    def __init__(self, driver: str = "worker") -> None:
        self.clock = ManualClock()
        self.app = CloudQ("bench", broker="memory://", backend="memory://", clock=self.clock)
        self.drivers = Drivers(self.app, driver)
        self.ran: list[Any] = []
        self.lifecycle = self.app.lifecycle("w1")

    def receive(self, queue: str = "cloudq") -> list[Delivery]:
        return self.app.broker.receive(queue, 10, 0.0, 30.0)

    def step(self, queue: str = "cloudq") -> list[Any]:
        """Receive once, run, carry out; the verdicts."""
        verdicts = []
        for delivery in self.receive(queue):
            verdict = self.lifecycle.run(delivery, NoWatch())
            verdicts.append(verdict)
            if self.drivers.has_done(delivery):
                continue
            if isinstance(verdict, Ack):
                self.app.broker.ack([delivery])
            elif isinstance(verdict, Bury):
                self.app.broker.bury(delivery, verdict.reason, verdict.detail)
            elif isinstance(verdict, Release):
                self.app.broker.release([delivery], verdict.delay)
        return verdicts

    def body(self, queue: str = "cloudq") -> dict[str, Any]:
        """The one waiting message, as JSON."""
        [delivery] = self.receive(queue)
        self.app.broker.release([delivery])
        found: dict[str, Any] = msgspec.json.decode(delivery.body)
        return found


@pytest.fixture(params=DRIVERS)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    bench = Bench(request.param)
    yield bench
    bench.drivers.close()
    bench.app.close()


# --- calling ---------------------------------------------------------------------------------------


def test_a_task_is_named_after_module_and_function(bench: Bench) -> None:
    @bench.app.task
    def add(x: int, y: int) -> int:
        return x + y

    assert add.name.endswith("test_spine.test_a_task_is_named_after_module_and_function.add")
    assert add(1, 2) == 3


def test_delay_runs_in_the_worker_and_the_result_comes_back(bench: Bench) -> None:
    @bench.app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    result = add.delay(4, y=4)
    assert (result.state, result.ready(), result.result) == ("PENDING", False, None)

    assert bench.step() == [Ack()]

    assert (result.state, result.ready(), result.successful(), result.get(timeout=1)) == (
        "SUCCESS",
        True,
        True,
        8,
    )
    assert result.date_done == datetime.fromtimestamp(bench.clock.time(), UTC)
    assert bench.app.broker.depth("cloudq").total == 0


def test_arguments_that_do_not_fit_are_refused_at_the_call(bench: Bench) -> None:
    @bench.app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    with pytest.raises(TypeError, match=r"add\(\) missing a required argument: 'y'"):
        add.delay(1)
    with pytest.raises(TypeError, match="did you mean 'countdown'"):
        add.apply_async((1, 2), countdwon=3)  # type: ignore[call-arg]
    with pytest.raises(SerializationError, match=r"arguments of add.*\$\[1\]"):
        add.delay(1, object())  # type: ignore[arg-type]
    with pytest.raises(MessageTooLarge):
        add.delay("x" * 1_100_000, 1)  # type: ignore[arg-type]
    assert bench.app.broker.depth("cloudq").total == 0


def test_the_message_is_wire_format_v1(bench: Bench) -> None:
    @bench.app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    add.apply_async((1, 2), task_id="T1", headers={"tenant": "a"}, time_limit=5, expires=60)

    body = bench.body()
    assert (body["v"], body["id"], body["task"], body["args"]) == (1, "T1", "add", [1, 2])
    assert (body["root_id"], body["headers"], body["time_limit"]) == ("T1", {"tenant": "a"}, 5)
    assert datetime.fromisoformat(body["expires"]).timestamp() == pytest.approx(bench.clock.time() + 60)


def test_send_task_needs_no_code(bench: Bench) -> None:
    result = bench.app.send_task("elsewhere.add", args=[1], kwargs={"y": 2}, queue="fast")

    assert bench.body("fast") | {
        "id": result.id,
        "task": "elsewhere.add",
        "args": [1],
        "kwargs": {"y": 2},
    } == bench.body("fast")


def test_routes_and_queues(bench: Bench) -> None:
    bench.app.conf.task_routes = {"mail.*": "mail"}

    @bench.app.task(name="mail.send", queue="own")
    def send() -> None: ...

    bench.app.send_task("mail.other")
    bench.app.send_task("other")
    send.delay()
    send.apply_async(queue="call")

    assert bench.body("mail")["task"] == "mail.other"
    assert bench.body("cloudq")["task"] == "other"
    assert bench.body("own")["task"] == bench.body("call")["task"] == "mail.send"


def test_send_many_sends_all_in_order(bench: Bench) -> None:
    @bench.app.task(name="square")
    def square(x: int) -> int:
        return x * x

    results = bench.app.send_many(square.s(n) for n in range(25))
    for _ in range(3):
        bench.step()

    assert [each.get(timeout=1) for each in results] == [n * n for n in range(25)]


def test_the_asyncio_twins(bench: Bench) -> None:
    @bench.app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    async def use() -> int:
        result = await add.adelay(1, 2)
        await add.aapply_async((1, 2))
        bench.step()
        value = await result.aget(timeout=5)
        await result.aforget()
        return value

    assert asyncio.run(use()) == 3


def test_get_times_out_and_leaves_nothing_waiting(bench: Bench) -> None:
    result = bench.app.send_task("never")
    with pytest.raises(TimeoutError, match="has not ended within 0.05 seconds"):
        result.get(timeout=0.05)


def test_get_inside_a_task_is_refused(bench: Bench) -> None:
    @bench.app.task(name="outer")
    def outer() -> None:
        bench.app.send_task("inner").get(timeout=1)

    result = outer.delay()
    bench.step()

    with pytest.raises(RuntimeError, match="get\\(\\) inside a task"):
        result.get(timeout=1)


# --- failures and retries --------------------------------------------------------------------------


class Oops(Exception):
    pass


def test_a_failure_comes_back_as_what_it_was(bench: Bench) -> None:
    @bench.app.task(name="bad")
    def bad() -> None:
        raise Oops("why", 3)

    result = bad.delay()
    assert bench.step() == [Ack()]

    with pytest.raises(Oops) as caught:
        result.get(timeout=1)
    assert caught.value.args == ("why", 3)
    assert result.failed()
    assert 'raise Oops("why", 3)' in (result.traceback or "")
    assert "cloudq/execution" not in (result.traceback or "")
    assert isinstance(result.get(propagate=False), Oops)


def test_retry_runs_again_later_with_the_same_id(bench: Bench) -> None:
    @bench.app.task(name="shaky", bind=True, max_retries=2)
    def shaky(self: Task[..., Any]) -> int:
        if self.request.retries < 2:
            raise self.retry(exc=Oops(), countdown=10)
        return self.request.retries

    result = shaky.delay()
    assert bench.step() == [Ack()]
    assert (result.state, type(result.result)) == ("RETRY", Oops)
    assert bench.step() == []
    bench.clock.advance(10)
    bench.step()
    bench.clock.advance(10)
    bench.step()

    assert (result.get(timeout=1), result.retries) == (2, 2)


def test_retries_end_with_the_error_or_with_max_retries_exceeded(bench: Bench) -> None:
    @bench.app.task(name="a", bind=True, max_retries=1, default_retry_delay=0)
    def with_error(self: Task[..., Any]) -> None:
        raise self.retry(exc=Oops("last"))

    @bench.app.task(name="b", bind=True, max_retries=0)
    def without(self: Task[..., Any]) -> None:
        raise self.retry()

    first, second = with_error.delay(), without.delay()
    bench.step()
    bench.step()

    with pytest.raises(Oops, match="last"):
        first.get(timeout=1)
    with pytest.raises(MaxRetriesExceededError, match="max_retries is 0"):
        second.get(timeout=1)


def test_autoretry_backs_off(bench: Bench) -> None:
    @bench.app.task(
        name="auto", autoretry_for=(ConnectionError,), retry_backoff=2, retry_jitter=False, max_retries=3
    )
    def auto() -> None:
        bench.ran.append(bench.clock.time())
        raise ConnectionError

    result = auto.delay()
    for _ in range(40):
        bench.step()
        bench.clock.advance(1)

    gaps = [round(b - a) for a, b in zip(bench.ran, bench.ran[1:], strict=False)]
    assert gaps == [2, 4, 8]
    with pytest.raises(ConnectionError):
        result.get(timeout=1)


def test_dont_autoretry_for_wins(bench: Bench) -> None:
    @bench.app.task(name="auto", autoretry_for=(OSError,), dont_autoretry_for=(FileNotFoundError,))
    def auto() -> None:
        raise FileNotFoundError("gone")

    result = auto.delay()
    bench.step()

    assert result.failed()


def test_retry_called_directly_raises_the_error(bench: Bench) -> None:
    @bench.app.task(name="shaky", bind=True)
    def shaky(self: Task[..., Any]) -> None:
        raise self.retry(exc=Oops("direct"))

    with pytest.raises(Oops, match="direct"):
        shaky()


def test_ignore_stores_nothing(bench: Bench) -> None:
    @bench.app.task(name="ignoring")
    def ignoring() -> None:
        raise Ignore

    result = ignoring.delay()

    assert bench.step() == [Ack()]
    assert result.state == "PENDING"


def test_reject_buries_and_requeue_gives_back(bench: Bench) -> None:
    @bench.app.task(name="rejecting")
    def rejecting(requeue: bool) -> None:
        raise Reject("no", requeue=requeue)

    result = rejecting.delay(False)
    assert bench.step() == [Bury("rejected", "no")]
    assert result.state == "REJECTED"
    rejecting.delay(True)
    assert bench.step() == [Release(0.0)]


def test_a_failed_task_may_be_a_dead_letter(bench: Bench) -> None:
    @bench.app.task(name="bad", dead_letter=True)
    def bad() -> None:
        raise Oops("x")

    result = bad.delay()

    assert bench.step() == [Bury("task_failed", "Oops: x")]
    assert result.failed()


def test_a_result_that_cannot_be_written_is_a_failure_with_its_path(bench: Bench) -> None:
    @bench.app.task(name="bad")
    def bad() -> Any:
        return {"rows": [1, object()]}

    result = bad.delay()
    bench.step()

    with pytest.raises(SerializationError, match=r"\$\['rows'\]\[1\]"):
        result.get(timeout=1)


def test_ignore_result_stores_nothing_but_may_keep_errors(bench: Bench) -> None:
    @bench.app.task(name="quiet", ignore_result=True)
    def quiet() -> int:
        return 1

    @bench.app.task(name="loud", ignore_result=True, store_errors_even_if_ignored=True)
    def loud() -> None:
        raise Oops

    first, second, third = quiet.delay(), loud.delay(), bench.app.send_task("quiet", ignore_result=True)
    bench.step()

    assert (first.state, second.state, third.state) == ("PENDING", "FAILURE", "PENDING")


# --- time ------------------------------------------------------------------------------------------


def test_countdown_and_eta_are_not_early(bench: Bench) -> None:
    @bench.app.task(name="t")
    def t(n: int) -> int:
        return n

    first = t.apply_async((1,), countdown=100)
    second = t.apply_async((2,), eta=datetime.fromtimestamp(bench.clock.time(), UTC) + timedelta(seconds=200))
    bench.clock.advance(99)
    assert bench.step() == []
    bench.clock.advance(1.1)
    bench.step()
    assert first.ready()
    assert not second.ready()
    bench.clock.advance(100)
    bench.step()
    assert second.get(timeout=1) == 2


def test_an_eta_in_the_past_runs_now(bench: Bench) -> None:
    @bench.app.task(name="t")
    def t() -> int:
        return 1

    result = t.apply_async(eta=bench.clock.time() - 50)
    bench.step()

    assert result.ready()


def test_a_message_that_is_too_early_is_sent_on(bench: Bench) -> None:
    """What a broker with a short delay limit does: the message hops."""

    @bench.app.task(name="t")
    def t() -> int:
        bench.ran.append(bench.clock.time())
        return 1

    due = bench.clock.time() + 50
    body = {"task": "t", "id": "H", "eta": due}
    from cloudq.brokers.base import Message

    bench.app.broker.send("cloudq", [Message(msgspec.json.encode(body).decode())])
    assert bench.step() == [Ack()]
    assert bench.ran == []
    bench.clock.advance(51)
    bench.step()
    assert bench.ran == [due + 1]
    assert bench.app.AsyncResult("H").get(timeout=1) == 1


def test_an_expired_task_is_revoked(bench: Bench) -> None:
    @bench.app.task(name="t")
    def t() -> None:
        bench.ran.append(1)

    result = t.apply_async(expires=10)
    bench.clock.advance(11)
    bench.step()

    assert (result.state, bench.ran) == ("REVOKED", [])
    with pytest.raises(TaskRevokedError, match="expired"):
        result.get(timeout=1)


def test_a_delay_on_a_fifo_queue_is_an_error_at_the_call(bench: Bench) -> None:
    with pytest.raises(Unsupported, match="FIFO"):
        bench.app.send_task("t", queue="q.fifo", countdown=5)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"countdown": 1, "eta": 5.0}, ValueError),
        ({"countdown": "1"}, TypeError),
        ({"eta": "soon"}, ValueError),
        ({"expires": object()}, TypeError),
    ],
)
def test_bad_times_are_refused(bench: Bench, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        bench.app.send_task("t", **options)


def test_naive_datetimes_are_in_the_apps_zone() -> None:
    clock = ManualClock(datetime(2026, 7, 1, 8, 0, tzinfo=UTC).timestamp())
    app = CloudQ("x", broker="memory://", backend="memory://", clock=clock, timezone="Europe/Paris")
    call = app.producer.prepare("t", (), {}, {"eta": datetime(2026, 7, 1, 12, 0)})

    assert call.envelope.eta == datetime(2026, 7, 1, 10, 0, tzinfo=UTC).timestamp()
    with pytest.raises(ImproperlyConfigured, match="Europe/Nowhere"):
        _ = CloudQ("x", timezone="Europe/Nowhere", broker="memory://").producer


# --- links -----------------------------------------------------------------------------------------


def test_a_link_gets_the_result_and_derived_ids(bench: Bench) -> None:
    @bench.app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    result = add.apply_async((1, 2), link=[add.s(10), add.si(5, 5)])
    bench.step()
    bench.step()

    first, second = result.children
    assert (first.get(timeout=1), second.get(timeout=1)) == (13, 10)


def test_an_errback_gets_the_failed_id(bench: Bench) -> None:
    @bench.app.task(name="bad")
    def bad() -> None:
        raise Oops

    @bench.app.task(name="note")
    def note(task_id: str, where: str) -> None:
        bench.ran.append((task_id, where))

    result = bad.apply_async(link_error=note.s("here"))
    bench.step()
    bench.step()

    assert bench.ran == [(result.id, "here")]


def test_children_know_their_parent_and_root(bench: Bench) -> None:
    @bench.app.task(name="child", bind=True)
    def child(self: Task[..., Any]) -> list[Any]:
        return [self.request.parent_id, self.request.root_id]

    @bench.app.task(name="parent")
    def parent() -> str:
        return child.delay().id

    result = parent.delay()
    bench.step()
    bench.step()

    assert result.children[0].get(timeout=1) == [result.id, result.id]
    assert [each for _, each in result.iterdeps()] == [result, result.children[0]]


# --- bad messages ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("not json", "undecodable"),
        ("[]", "undecodable"),
        ('{"args": []}', "undecodable"),
        ('{"task": "nope"}', "unknown_task"),
        ('{"task": "add", "args": [1]}', "invalid_arguments"),
        ('{"task": "add", "args": [1, 2], "v": 99}', "unsupported_version"),
        (
            '{"task": "add", "content": {"type": "application/x-yaml", "encoding": "base64", "data": ""}}',
            "content_disallowed",
        ),
    ],
)
def test_a_message_that_must_not_run_is_buried_with_the_reason(bench: Bench, body: str, reason: str) -> None:
    from cloudq.brokers.base import Message

    @bench.app.task(name="add")
    def add(x: int, y: int) -> int:
        bench.ran.append(1)
        return x + y

    bench.app.broker.send("cloudq", [Message(body)])
    [verdict] = bench.step()

    assert isinstance(verdict, Bury)
    assert verdict.reason == reason
    assert bench.ran == []
    [letter] = bench.receive("cloudq-dlq")
    assert letter.attributes["cloudq-reason"] == reason
    assert letter.body == body


def test_the_smallest_message_runs_with_the_message_id(bench: Bench) -> None:
    from cloudq.brokers.base import Message

    @bench.app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    [message_id] = bench.app.broker.send("cloudq", [Message('{"task": "add", "args": [1, 2]}')])
    bench.step()

    assert bench.app.AsyncResult(message_id).get(timeout=1) == 3


# --- at least once, at most what is needed -----------------------------------------------------------


def test_a_task_that_has_ended_is_not_run_again(bench: Bench) -> None:
    @bench.app.task(name="once")
    def once() -> int:
        bench.ran.append(1)
        return 1

    once.delay()
    [delivery] = bench.receive()
    bench.lifecycle.run(delivery, NoWatch())  # settled, but the acknowledgement is lost
    bench.clock.advance(31)
    assert bench.step() == [Ack()]

    assert bench.ran == [1]


def test_the_first_record_stands(bench: Bench) -> None:
    @bench.app.task(name="fickle")
    def fickle() -> int:
        bench.ran.append(1)
        return len(bench.ran)

    result = fickle.delay()
    [delivery] = bench.receive()
    first, second = bench.lifecycle.prepare(delivery), bench.lifecycle.prepare(delivery)
    for ready in (first, second):
        bench.lifecycle.settle(ready, bench.lifecycle.execute(ready, NoWatch()))  # type: ignore[arg-type]

    assert (bench.ran, result.get(timeout=1)) == ([1, 1], 1)


def test_a_duplicate_of_an_earlier_try_is_dropped(bench: Bench) -> None:
    @bench.app.task(name="shaky", bind=True)
    def shaky(self: Task[..., Any]) -> int:
        bench.ran.append(self.request.retries)
        if self.request.retries < 1:
            raise self.retry(countdown=10)
        return 1

    result = shaky.delay()
    [delivery] = bench.receive()
    bench.lifecycle.run(delivery, NoWatch())  # sends try 1, but is not deleted
    bench.clock.advance(31)  # both are there now
    bench.step()
    bench.step()
    bench.clock.advance(31)
    bench.step()

    assert result.get(timeout=1) == 1
    assert bench.ran.count(0) == 1


def test_early_ack_deletes_before_it_runs(bench: Bench) -> None:
    @bench.app.task(name="early", acks_late=False)
    def early() -> int:
        bench.ran.append(bench.app.broker.depth("cloudq").total)
        return 1

    early.delay()

    assert bench.step() == [Ack(already=True)]
    assert bench.ran == [0]


def test_a_lost_lease_writes_nothing(bench: Bench) -> None:
    from cloudq.runtime.verdict import Abandon

    @bench.app.task(name="t")
    def t() -> int:
        return 1

    result = t.delay()
    bench.lifecycle.settler.holds = lambda delivery: False

    assert bench.step() == [Abandon()]
    assert result.state == "PENDING"


def test_started_is_recorded_when_asked_for(bench: Bench) -> None:
    @bench.app.task(name="t", track_started=True)
    def t() -> str:
        return bench.app.AsyncResult(first.id).state

    first = t.delay()
    bench.step()

    assert first.get(timeout=1) == "STARTED"


def test_update_state_shows_progress_and_never_goes_back(bench: Bench) -> None:
    @bench.app.task(name="t", bind=True)
    def t(self: Task[..., Any]) -> Any:
        self.update_state(state="PROGRESS", meta={"done": 3})
        seen = bench.app.AsyncResult(self.request.id or "")
        return [seen.state, seen.info]

    result = t.delay()
    bench.step()
    assert result.get(timeout=1) == ["PROGRESS", {"done": 3}]

    bench.app.update_state(result.id, "PROGRESS", {"done": 1})
    assert bench.app.AsyncResult(result.id).state == "SUCCESS"
    with pytest.raises(ValueError, match="final"):
        bench.app.update_state(result.id, "SUCCESS")


def test_hooks_of_task_and_app_are_called_and_cannot_break_it(bench: Bench) -> None:
    class Loud(Task[Any, Any]):
        def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
            bench.ran.append("before")

        def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
            bench.ran.append(("success", retval))
            raise RuntimeError("a hook's own bug")

        def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
            bench.ran.append(("failure", str(exc), "Oops" in str(einfo)))

        def after_return(self, status: str, *rest: Any) -> None:
            bench.ran.append(("after", status))

    @bench.app.task(name="good", base=Loud)
    def good() -> int:
        return 1

    @bench.app.task(name="bad", base=Loud)
    def bad() -> None:
        raise Oops("x")

    bench.app.hooks.on("task_succeeded", lambda **data: bench.ran.append(data["outcome"].state))
    bench.app.hooks.on("task_succeeded", lambda **data: 1 / 0)
    good.delay()
    bench.step()
    bad.delay()
    bench.step()

    assert bench.ran == [
        "before",
        ("success", 1),
        "SUCCESS",
        "before",
        ("failure", "x", True),
        ("after", "FAILURE"),
    ]


def test_request_tells_about_the_run(bench: Bench) -> None:
    @bench.app.task(name="t", bind=True)
    def t(self: Task[..., Any]) -> dict[str, Any]:
        request = self.request
        return {
            "id": request.id,
            "hostname": request.hostname,
            "queue": request.delivery_info["queue"],
            "count": request.receive_count,
            "tenant": request.get("tenant"),
            "limits": list(request.timelimit),
            "direct": request.called_directly,
        }

    result = t.apply_async(headers={"tenant": "a"}, time_limit=9, soft_time_limit=8)
    bench.step()

    assert result.get(timeout=1) == {
        "id": result.id,
        "hostname": "w1",
        "queue": "cloudq",
        "count": 1,
        "tenant": "a",
        "limits": [9, 8],
        "direct": False,
    }
    assert t.request.called_directly


def test_async_tasks_run(bench: Bench) -> None:
    @bench.app.task(name="t")
    async def t(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    result = t.delay(1)
    bench.step()

    assert result.get(timeout=1) == 2


# --- inline ----------------------------------------------------------------------------------------


def test_apply_goes_the_workers_way(bench: Bench) -> None:
    @bench.app.task(name="add", bind=True, max_retries=2)
    def add(self: Task[..., Any], x: int, y: int) -> Any:
        if self.request.retries < 2:
            raise self.retry(countdown=1000)
        return (x + y, self.request.is_eager)

    result = add.apply((1, 2), link=bench.app.signature("note"))

    assert result.get() == [3, True]  # a tuple is a list, as it would be from a worker


def test_apply_raises_where_a_worker_would_bury(bench: Bench) -> None:
    with pytest.raises(MessageError, match="unknown_task"):
        bench.app.apply_task("nope")


def test_always_eager(bench: Bench) -> None:
    @bench.app.task(name="bad")
    def bad() -> None:
        raise Oops("eager")

    bench.app.conf.task_always_eager = True
    assert bad.delay().state == states.FAILURE
    bench.app.conf.task_eager_propagates = True
    with pytest.raises(Oops):
        bad.delay()
    assert bench.app.broker.depth("cloudq").total == 0


def test_an_eager_result_may_be_stored(bench: Bench) -> None:
    @bench.app.task(name="t")
    def t() -> int:
        return 1

    bench.app.conf.update(task_always_eager=True, task_store_eager_result=True)
    result = t.delay()

    assert bench.app.AsyncResult(result.id).get(timeout=1) == 1


# --- declaring -------------------------------------------------------------------------------------


def test_an_unknown_option_is_refused_with_the_nearest(bench: Bench) -> None:
    with pytest.raises(TypeError, match="did you mean 'max_retries'"):
        bench.app.task(max_retrys=3)(lambda: None)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "options",
    [
        {"autoretry_for": "ConnectionError"},
        {"throws": (1,)},
        {"time_limit": "5"},
        {"time_limit": 1, "soft_time_limit": 2},
        {"base": dict},
    ],
)
def test_bad_options_are_refused_where_they_stand(bench: Bench, options: dict[str, Any]) -> None:
    with pytest.raises(ImproperlyConfigured, match="task t"):
        bench.app.task(name="t", **options)(lambda: None)


def test_two_tasks_of_one_name_are_refused(bench: Bench) -> None:
    @bench.app.task(name="same")
    def one() -> None: ...

    with pytest.raises(ImproperlyConfigured, match="two tasks are called 'same'"):

        @bench.app.task(name="same")
        def two() -> None: ...


def test_an_unknown_task_names_the_nearest(bench: Bench) -> None:
    @bench.app.task(name="shop.add")
    def add() -> None: ...

    with pytest.raises(NotRegistered, match="nearest known is 'shop.add'"):
        bench.app.tasks["shop.ad"]
    assert issubclass(InvalidArguments, TypeError)


def test_two_apps_share_nothing() -> None:
    one, two = CloudQ("one", broker="memory://"), CloudQ("two", broker="memory://")
    one.task(name="t")(lambda: None)

    assert "t" not in two.tasks
    assert one.broker is not two.broker
