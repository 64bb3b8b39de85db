"""What most tasks do not use costs them nothing, and is there all the same for the one that begins to use it.

One lifecycle runs a plain task first; then something is asked of it that it has not been asked before.
"""

import asyncio
import copy
import dataclasses
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from cloudq import CloudQ, signals, states
from cloudq.brokers.base import Delivery, Message
from cloudq.context import Request, current
from cloudq.execution.call import NoWatch
from cloudq.message import Envelope, GroupRef
from cloudq.runtime.request import RunRequest, request_of
from cloudq.runtime.verdict import ABANDON, ACK, Ack, Bury, Hold, Verdict
from cloudq.serializers.codec import Codec
from cloudq.testing.clock import ManualClock
from cloudq.worker.runner import override

#: Where a run that succeeds comes by, in order.
STAGES = ["task_received", "task_prerun", "task_postrun", "task_succeeded", "task_settled"]


class Watch(NoWatch):
    """Remembers the limits."""

    def __init__(self) -> None:
        self.limits: list[Any] = []

    def begin(self, soft: float | None, hard: float | None) -> None:
        self.limits.append((soft, hard))


class Bench:
    """An app whose plain task ``noop`` has run once, storing nothing."""

    def __init__(self, backend: str) -> None:
        self.clock = ManualClock()
        self.app = CloudQ(
            "bench", broker="memory://", backend=backend, clock=self.clock, task_ignore_result=True
        )
        self.ran: list[Any] = []
        self.noop = self.app.task(name="noop")(self.ran.append)
        self.lifecycle = self.app.lifecycle("w1")
        self.watch = Watch()
        assert self.run(0) == ACK
        self.told: list[str] = []

    def deliver(self, *args: Any, **options: Any) -> Delivery:
        self.noop.apply_async(args, **options)
        [found] = self.app.broker.receive("cloudq", 1, 0.0, 30.0)
        return found

    def run(self, *args: Any, **options: Any) -> Verdict:
        return self.lifecycle.run(self.deliver(*args, **options), self.watch)

    def note(self, point: str) -> Any:
        return lambda **_: self.told.append(point)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench("memory://")
    yield bench
    bench.app.close()


# --- hooks and signals --------------------------------------------------------------------------------


def test_hooks_that_are_registered_later_are_told(bench: Bench) -> None:
    for point in STAGES:
        bench.app.hooks.on(point, bench.note(point))

    assert bench.run(1) == ACK
    assert bench.told == STAGES


def test_hooks_that_a_task_registers_while_it_runs_are_told_of_its_end(bench: Bench) -> None:
    @bench.app.task(name="listens")
    def listens() -> None:
        for point in STAGES:
            bench.app.hooks.on(point, bench.note(point))

    listens.delay()
    [delivery] = bench.app.broker.receive("cloudq", 1, 0.0, 30.0)
    bench.lifecycle.run(delivery, NoWatch())

    assert bench.told == STAGES[2:]


def test_hooks_that_are_taken_away_are_told_no_more(bench: Bench) -> None:
    listener = bench.note("task_prerun")
    bench.app.hooks.on("task_prerun", listener)
    bench.run(1)
    bench.app.hooks.off("task_prerun", listener)
    bench.app.hooks.off("task_prerun", listener)
    bench.run(2)

    assert bench.told == ["task_prerun"]
    assert not bench.app.hooks.wants("task_prerun")


def test_a_listener_that_stays_is_told_when_another_is_taken_away_and_comes_back(bench: Bench) -> None:
    stays, goes = bench.note("stays"), bench.note("goes")
    bench.app.hooks.on("task_prerun", stays)
    bench.app.hooks.on("task_prerun", goes)
    bench.app.hooks.off("task_prerun", goes)
    bench.run(1)
    bench.app.hooks.off("task_prerun", stays)
    bench.run(2)
    bench.app.hooks.on("task_prerun", goes)
    bench.run(3)

    assert bench.told == ["stays", "goes"]


def test_who_listens_to_the_worker_alone_makes_runs_ask_for_nothing(bench: Bench) -> None:
    bench.app.hooks.on("worker_ready", bench.note("worker_ready"))

    assert not bench.app.hooks.of_runs
    bench.app.hooks.on("task_prerun", bench.note("task_prerun"))
    assert set(bench.app.hooks.of_runs) == {"task_prerun"}


def test_signals_that_are_connected_later_are_sent(bench: Bench) -> None:
    heard: list[Any] = []

    def receiver(task_id: str, retval: Any = None, **_: Any) -> None:
        heard.append((task_id, current() is None))

    signals.task_prerun.connect(receiver)
    signals.task_postrun.connect(receiver)
    try:
        bench.run(1, task_id="T1")
    finally:
        signals.task_prerun.disconnect(receiver)
        signals.task_postrun.disconnect(receiver)
    bench.run(2)

    assert [each[0] for each in heard] == ["T1", "T1"]


def test_the_tasks_own_hooks_are_called(bench: Bench) -> None:
    def told(name: str) -> Any:
        return lambda *_: bench.told.append(name)

    for name in ("before_start", "on_success", "after_return"):
        setattr(bench.noop, name, told(name))
    bench.run(1)

    assert bench.told == ["before_start", "on_success", "after_return"]


# --- settings and options ---------------------------------------------------------------------------


def test_a_setting_that_changes_counts_for_the_next_run(bench: Bench) -> None:
    bench.app.conf.task_time_limit = 30.0
    bench.app.conf.task_soft_time_limit = 20.0
    bench.run(1)
    override(bench.app, {"noop": {"time_limit": 10.0}})
    bench.run(2)
    bench.run(3, time_limit=5.0, soft_time_limit=4.0)

    assert bench.watch.limits == [(None, None), (20.0, 30.0), (20.0, 10.0), (4.0, 5.0)]


@pytest.mark.parametrize("how", ["setting", "option"])
def test_acknowledging_early_may_be_turned_on_while_it_runs(bench: Bench, how: str) -> None:
    eased: list[Delivery] = []
    bench.lifecycle.settler.eased = eased.append
    if how == "setting":
        bench.app.conf.task_acks_late = False
    else:
        override(bench.app, {"noop": {"acks_late": False}})
    delivery = bench.deliver(1)

    assert bench.lifecycle.run(delivery, NoWatch()) == Ack(already=True)
    assert eased == [delivery]
    assert bench.app.broker.depth("cloudq").in_flight == 1  # only the first, which this test left there


def test_a_task_that_acknowledges_late_again_waits_for_its_end(bench: Bench) -> None:
    bench.app.conf.task_acks_late = False
    override(bench.app, {"noop": {"acks_late": True}})

    assert bench.run(1) == Ack(already=False)


@pytest.mark.parametrize("how", ["setting", "option"])
def test_a_rate_limit_that_is_set_while_it_runs_holds(bench: Bench, how: str) -> None:
    bench.lifecycle.settler.can_hold = True
    if how == "setting":
        bench.app.conf.task_default_rate_limit = "2/s"
    else:
        override(bench.app, {"noop": {"rate_limit": "2/s"}})

    assert [bench.run(1), bench.run(2)] == [ACK, ACK]
    assert isinstance(bench.run(3), Hold)
    bench.app.conf.worker_disable_rate_limits = True
    assert bench.run(4) == ACK
    assert bench.ran == [0, 1, 2, 4]


def test_max_concurrency_that_is_set_while_it_runs_holds_and_is_given_back(bench: Bench) -> None:
    override(bench.app, {"noop": {"max_concurrency": 1}})
    first = bench.lifecycle.prepare(bench.deliver(1))
    waits = bench.run(2)
    bench.lifecycle.leave(first)  # type: ignore[arg-type]

    assert waits == ACK  # it was sent once more, to come when there is a place
    assert bench.run(3) == ACK
    assert bench.run(4) == ACK
    assert bench.ran == [0, 3, 4]


def test_idempotency_that_is_asked_for_by_one_call_holds(bench: Bench) -> None:
    assert bench.run(1, idempotency_key="k") == ACK
    assert bench.run(2, idempotency_key="k") == ACK
    override(bench.app, {"noop": {"idempotent": True}})
    assert bench.run(3, task_id="same") == ACK
    assert bench.run(4, task_id="same") == ACK
    assert bench.ran == [0, 1, 3]


def test_a_result_is_stored_once_it_is_wanted(bench: Bench) -> None:
    assert bench.app.store is not None
    bench.run(1, task_id="T1")
    override(bench.app, {"noop": {"ignore_result": False}})
    bench.run(2, task_id="T2")
    bench.run(3, task_id="T3", ignore_result=True)
    override(bench.app, {"noop": {"ignore_result": None}})
    bench.app.conf.task_ignore_result = False
    bench.app.conf.task_track_started = True
    bench.run(4, task_id="T4")

    found = bench.app.store.read_many(["T1", "T2", "T3", "T4"])
    assert {each.id: each.state for each in found.values()} == {"T2": states.SUCCESS, "T4": states.SUCCESS}


def test_a_task_that_begins_to_fail_is_tried_again_and_its_failure_is_kept(bench: Bench) -> None:
    @bench.app.task(
        name="fails", autoretry_for=(ValueError,), max_retries=1, store_errors_even_if_ignored=True
    )
    def fails() -> None:
        raise ValueError("broken")

    assert bench.app.store is not None
    fails.apply_async(task_id="F")
    verdicts = []
    for _ in range(2):
        bench.clock.advance(1000.0)
        [delivery] = [
            each for each in bench.app.broker.receive("cloudq", 10, 0.0, 30_000.0) if '"fails"' in each.body
        ]
        verdicts.append(bench.lifecycle.run(delivery, NoWatch()))
        bench.app.broker.ack([delivery])

    assert verdicts == [ACK, ACK]
    record = bench.app.store.read("F")
    assert record is not None
    assert (record.state, record.retries) == (states.FAILURE, 1)


def test_what_is_revoked_or_has_expired_or_is_not_due_does_not_run(bench: Bench) -> None:
    bench.lifecycle.revoked = lambda envelope: "revoked" if envelope.id == "T1" else None
    bench.run(1, task_id="T1")
    expired = bench.deliver(2, expires=5.0)
    bench.clock.advance(6.0)
    bench.lifecycle.run(expired, NoWatch())
    bench.run(3, task_id="T3")

    assert bench.ran == [0, 3]


def test_a_lease_that_was_lost_before_or_while_it_ran_settles_nothing(bench: Bench) -> None:
    held = [True]
    bench.lifecycle.settler.holds = lambda delivery: held[0]

    @bench.app.task(name="loses", ignore_result=False)
    def loses() -> None:
        held[0] = False

    loses.apply_async(task_id="L")
    [delivery] = bench.app.broker.receive("cloudq", 1, 0.0, 30.0)

    assert bench.lifecycle.run(delivery, NoWatch()) == ABANDON
    assert bench.run(1) == ABANDON
    assert bench.ran == [0]
    assert bench.app.store is not None
    assert bench.app.store.read("L") is None


def test_arguments_that_do_not_fit_bury_the_message(bench: Bench) -> None:
    bench.app.send_task("noop", (1, 2))
    [delivery] = bench.app.broker.receive("cloudq", 1, 0.0, 30.0)

    assert isinstance(bench.lifecycle.run(delivery, NoWatch()), Bury)


def test_what_follows_a_plain_task_is_sent(bench: Bench) -> None:
    bench.run(1, link=bench.noop.si("linked"))
    [delivery] = bench.app.broker.receive("cloudq", 1, 0.0, 30.0)
    bench.lifecycle.run(delivery, NoWatch())

    assert bench.ran == [0, 1, "linked"]


def test_an_app_without_a_store_runs_tasks_that_say_nothing_of_results() -> None:
    bench = Bench("disabled://")
    override(bench.app, {"noop": {"ignore_result": False}})
    try:
        assert bench.run(1) == ACK
        assert bench.ran == [0, 1]
    finally:
        bench.app.close()


# --- on an event loop ---------------------------------------------------------------------------------


def on_loop(bench: Bench, delivery: Delivery) -> tuple[Verdict, list[str]]:
    """The verdict, and what was done in a thread because it may wait."""
    waited: list[str] = []

    async def bridge(function: Any, *args: Any) -> Any:
        waited.append(function.__name__)
        return function(*args)

    return asyncio.run(bench.lifecycle.arun(delivery, NoWatch(), bridge)), waited


@pytest.fixture
def doze(bench: Bench) -> Any:
    @bench.app.task(name="doze")
    async def doze(x: Any = None) -> Any:
        bench.ran.append(x)
        if x == "fail":
            raise ValueError("broken")
        if x == "listen":
            bench.app.hooks.on("task_succeeded", bench.note("task_succeeded"))
        return x

    return doze


def sent(bench: Bench, task: Any, *args: Any, **options: Any) -> Delivery:
    task.apply_async(args, **options)
    [found] = bench.app.broker.receive(options.get("queue", "cloudq"), 1, 0.0, 30.0)
    return found


def test_a_task_that_asks_for_nothing_needs_no_thread_beside_the_event_loop(bench: Bench, doze: Any) -> None:
    assert on_loop(bench, sent(bench, doze, 1)) == (ACK, [])
    assert bench.ran == [0, 1]


def test_a_stored_result_is_written_in_a_thread_and_its_start_needs_none(bench: Bench, doze: Any) -> None:
    assert bench.app.store is not None
    override(bench.app, {"doze": {"ignore_result": False}})

    assert on_loop(bench, sent(bench, doze, 1, task_id="T")) == (ACK, ["settled"])
    record = bench.app.store.read("T")
    assert record is not None
    assert record.result == 1


BOTH = ["prepare", "settled"]
#: What is asked of a run, and what may wait then.
ASKED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "a link": ({"link": "doze"}, ["settled"]),
    "headers": ({"headers": {"a": 1}}, BOTH),
    "an expiry": ({"expires": 60.0}, ["prepare"]),
    "a key": ({"idempotency_key": "k"}, BOTH),
}


@pytest.mark.parametrize("name", ASKED)
def test_what_a_call_asks_for_is_done_in_a_thread(bench: Bench, doze: Any, name: str) -> None:
    options, waits = ASKED[name]
    if "link" in options:
        options = {"link": doze.si("linked")}

    verdict, waited = on_loop(bench, sent(bench, doze, 1, **options))
    assert (verdict, waited) == (ACK, [*waits, *(["leave"] if name == "a key" else [])])
    assert bench.ran == [0, 1]


OPTIONS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "a rate limit": ({"rate_limit": "10/s"}, ["prepare"]),
    "places": ({"max_concurrency": 1}, ["prepare", "leave"]),
    "early acknowledgement": ({"acks_late": False}, ["ack_early", "settled"]),
    "its start on record": ({"ignore_result": False, "track_started": True}, BOTH),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_what_a_task_asks_for_is_done_in_a_thread(bench: Bench, doze: Any, name: str) -> None:
    options, waits = OPTIONS[name]
    override(bench.app, {"doze": options})
    verdict, waited = on_loop(bench, sent(bench, doze, 1))

    assert isinstance(verdict, Ack)
    assert waited == waits
    assert bench.ran == [0, 1]


def test_listeners_are_told_of_all_stages_and_may_be_slow(bench: Bench, doze: Any) -> None:
    for point in STAGES:
        bench.app.hooks.on(point, bench.note(point))

    assert on_loop(bench, sent(bench, doze, 1)) == (ACK, BOTH)
    assert bench.told == STAGES


def test_a_listener_that_comes_while_the_task_runs_is_told_in_a_thread(bench: Bench, doze: Any) -> None:
    assert on_loop(bench, sent(bench, doze, "listen")) == (ACK, ["settled"])
    assert bench.told == ["task_succeeded"]


def test_a_failure_is_settled_in_a_thread(bench: Bench, doze: Any) -> None:
    assert on_loop(bench, sent(bench, doze, "fail")) == (ACK, ["settled"])


def test_what_must_not_run_is_judged_in_a_thread(bench: Bench, doze: Any) -> None:
    bench.lifecycle.revoked = lambda envelope: "revoked" if envelope.id == "R" else None
    revoked = sent(bench, doze, 1, task_id="R")
    bench.app.broker.send("cloudq", [message("nobody"), Message('{"task": "doze", "args": [1, 2]}')])
    unknown, unfit = bench.app.broker.receive("cloudq", 2, 0.0, 30.0)

    assert on_loop(bench, revoked) == (ACK, ["prepare"])
    for each in (unknown, unfit):
        verdict, waited = on_loop(bench, each)
        assert isinstance(verdict, Bury)
        assert waited == ["prepare"]
    assert bench.ran == [0]


def test_a_second_delivery_is_looked_up_in_a_thread(bench: Bench, doze: Any) -> None:
    override(bench.app, {"doze": {"ignore_result": False}})
    delivery = sent(bench, doze, 1, task_id="T")
    on_loop(bench, delivery)
    again = delivery.with_(receive_count=2)

    assert on_loop(bench, again) == (ACK, ["prepare"])
    assert bench.ran == [0, 1]


def test_long_messages_are_read_in_a_thread(bench: Bench, doze: Any) -> None:
    assert on_loop(bench, sent(bench, doze, "x" * 70_000)) == (ACK, ["prepare"])


def test_signed_messages_are_verified_in_a_thread() -> None:
    keys = {"k1": "a secret of at least sixteen bytes"}
    body = Codec(keys=keys).encode(Envelope("t", "T"), "q")

    assert Codec(keys=keys).decode_at_once(body, "M") is None
    assert Codec(keys=keys).decode_at_once('{"task": "t"}', "M") is None
    assert Codec(accept_content=("msgpack",)).decode_at_once('{"task": "t"}', "M") is None
    assert Codec().decode_at_once('{"task": "t"}', "M", sent_at=5.0) == Envelope("t", "M", sent_at=5.0)


# --- the request --------------------------------------------------------------------------------------

ENVELOPE = Envelope(
    task="t",
    id="T",
    args=(1,),
    kwargs={"k": 1},
    eta=1.0,
    expires=2.0,
    retries=3,
    root_id="root",
    parent_id="parent",
    group=GroupRef("g", 4, 5),
    chord={"task": "b"},
    chain=({"task": "n"},),
    link=({"task": "l"},),
    link_error=({"task": "e"},),
    headers={"stamps": {"a": 1}, "h": 2},
    origin="o",
)
DELIVERY = Delivery("q", "M", "", "R", 2, 1.0, 2.0, 3.0, 4.0, group_id="G")
SAID = Request(
    id="T",
    task="t",
    args=(1, 2),
    kwargs={"k": 1},
    retries=3,
    eta=1.0,
    expires=2.0,
    root_id="root",
    parent_id="parent",
    group="g",
    group_index=4,
    chord={"task": "b"},
    chain=({"task": "n"},),
    callbacks=({"task": "l"},),
    errbacks=({"task": "e"},),
    headers={"stamps": {"a": 1}, "h": 2},
    timelimit=(None, None),
    origin="o",
    hostname="w1",
    delivery_info={"queue": "q", "message_id": "M", "group_id": "G", "redelivered": True},
    receive_count=2,
    first_received_at=2.0,
    ignore_result=True,
    called_directly=False,
)


@pytest.fixture
def request_(bench: Bench) -> Request:
    return request_of(DELIVERY, ENVELOPE, bench.noop, bench.app.conf, False, "w1", False, (1, 2))


@pytest.mark.parametrize("name", [each.name for each in dataclasses.fields(Request)])
def test_each_attribute_of_a_request_is_there_when_it_is_asked_for(request_: Request, name: str) -> None:
    assert getattr(request_, name) == getattr(SAID, name)
    assert getattr(request_, name) is getattr(request_, name)


def test_a_request_is_shown_copied_and_pickled_as_if_it_had_been_filled_in(request_: Request) -> None:
    assert repr(request_).partition("(")[2] == repr(SAID).partition("(")[2]
    names = [each.name for each in dataclasses.fields(Request)]
    for other in (copy.copy(request_), copy.deepcopy(request_), pickle.loads(pickle.dumps(request_))):
        assert [getattr(other, name) for name in names] == [getattr(SAID, name) for name in names]
    assert dataclasses.replace(request_, retries=9).retries == 9


def test_what_is_set_on_a_request_stays(request_: Request) -> None:
    request_.retries = 7
    request_.children.append("child")
    request_.headers = {"mine": 1}

    assert (request_.retries, request_.attempt, request_.children) == (7, 8, ["child"])
    assert (request_.get("mine"), request_.get("headers"), request_.stamps) == (1, {"mine": 1}, {})


def test_a_request_has_no_other_attributes(request_: Request) -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        request_.nonsense  # type: ignore[attr-defined]  # noqa: B018
    assert request_.get("nonsense", 5) == 5
    assert request_.get("h") == 2
    with pytest.raises(AttributeError):
        RunRequest.__new__(RunRequest).retries  # noqa: B018


def test_a_first_try_without_a_root_is_its_own_root(bench: Bench) -> None:
    seen: list[Any] = []

    @bench.app.task(name="looks", bind=True)
    def looks(self: Any) -> None:
        request = self.request
        seen.append(
            (request.root_id, request.group, request.group_index, request.delivery_info["redelivered"])
        )

    bench.app.broker.send("cloudq", [message("looks")])
    [delivery] = bench.app.broker.receive("cloudq", 1, 0.0, 30.0)

    assert bench.lifecycle.run(delivery, NoWatch()) == ACK
    assert seen == [(delivery.message_id, None, None, False)]


def message(task: str) -> Message:
    return Message(f'{{"task": "{task}"}}')
