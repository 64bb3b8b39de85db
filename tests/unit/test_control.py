"""Remote control: signs of life, orders and their answers, what callers are told."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from cloudq import CloudQ
from cloudq.backends.open import open_backend
from cloudq.control.broadcast import STAYS, Answering
from cloudq.control.roster import Roster, WorkerInfo, level_of
from cloudq.control.shown import LIMIT, shown
from cloudq.coordination.board import Order
from cloudq.errors import ImproperlyConfigured, OperationalError, ValueTooLarge
from cloudq.testing.clock import JumpingClock, ManualClock
from cloudq.testing.stores import Counting
from cloudq.testing.workers import running_worker
from cloudq.worker.autoscale import Autoscaler


def info(name: str, at: float, **more: Any) -> WorkerInfo:
    fields: dict[str, Any] = {
        "hostname": name, "app": "a", "pid": 1, "host": "h", "pool": "threads", "concurrency": 2,
        "queues": ("q",), "started": at, "at": at, "every": 5.0, "looks_every": 1.0,
    }  # fmt: skip
    return WorkerInfo(**{**fields, **more})


@pytest.fixture
def clock() -> JumpingClock:
    return JumpingClock()


@pytest.fixture
def app(clock: JumpingClock) -> Iterator[CloudQ]:
    with CloudQ("bench", broker="memory://", backend="memory://", clock=clock) as app:
        yield app


# --- signs of life ---------------------------------------------------------------------------------


def test_a_worker_lives_until_it_misses_three_signs(app: CloudQ, clock: JumpingClock) -> None:
    roster = app.control.roster
    roster.beat(info("w1", clock.time()))
    roster.beat(info("odd/name @host", clock.time(), every=60.0))
    clock.advance(16)

    assert [each.hostname for each in roster.alive()] == ["odd/name @host"]
    assert [each.hostname for each in app.control.workers()] == ["odd/name @host", "w1"]
    clock.advance(901)
    assert [each.hostname for each in app.control.workers()] == ["odd/name @host"]
    roster.leave("odd/name @host")
    assert app.control.workers() == []


def test_namespaces_do_not_see_each_other(clock: JumpingClock) -> None:
    store = open_backend("memory://", clock)
    Roster(store, "a", clock).beat(info("w1", clock.time()))
    assert Roster(store, "b", clock).all() == []


def test_an_unknown_level_is_refused_with_the_nearest() -> None:
    assert [level_of(each) for each in ("off", "workers", "tasks", "history")] == [0, 1, 2, 3]
    with pytest.raises(ImproperlyConfigured, match="did you mean 'history'"):
        level_of("histroy")


# --- orders and answers ----------------------------------------------------------------------------


def test_nobody_there_is_told_at_once(app: CloudQ, clock: JumpingClock) -> None:
    before = clock.time()
    assert app.control.ping() == []
    assert app.control.inspect().active() == {}
    assert clock.time() == before
    assert app.control.boards.read().board.orders == ()


def test_a_worker_that_does_not_answer_is_waited_for_two_looks(app: CloudQ, clock: JumpingClock) -> None:
    app.control.roster.beat(info("deaf", clock.time(), looks_every=15.0, every=30.0))
    before = clock.time()
    assert app.control.ping() == []
    assert clock.time() - before == pytest.approx(32.0)
    before = clock.time()
    assert app.control.ping(timeout=3) == []
    assert clock.time() - before == pytest.approx(3.0)


def test_answers_come_by_hostname_and_waiting_ends_with_the_last(app: CloudQ, clock: JumpingClock) -> None:
    for name in ("w/1", "w2"):
        app.control.roster.beat(info(name, clock.time()))
    answering = Answering(app.need_store().backend, clock)
    original = clock.sleep
    asked: list[Order] = []

    def answer(seconds: float) -> None:
        [order] = app.control.boards.read().board.orders
        asked.append(order)
        answering.give(order, ["w/1", "w2"][len(asked) - 1], {"ok": "pong"})
        original(seconds)

    clock.sleep = answer  # type: ignore[method-assign]
    assert app.control.ping() == [{"w/1": {"ok": "pong"}}, {"w2": {"ok": "pong"}}]
    assert len(asked) == 2
    assert asked[0].until == asked[0].at + STAYS


def test_a_command_without_reply_waits_for_nobody(app: CloudQ, clock: JumpingClock) -> None:
    assert app.control.shutdown(destination=["w1"]) is None
    [order] = app.control.boards.read().board.orders
    assert (order.do, order.to) == ("shutdown", ("w1",))
    clock.advance(STAYS + 1)
    app.control.pool_grow(2)
    assert [each.do for each in app.control.boards.read().board.orders] == ["pool_grow"]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda c: c.ping(destination="w1"), "list of workers' hostnames"),
        (lambda c: c.pool_grow(0), "whole number from 1"),
        (lambda c: c.pool_shrink(True), "whole number from 1"),
        (lambda c: c.time_limit("t", soft=-1), "seconds above 0"),
        (lambda c: c.time_limit("t", soft=5, hard=2), "is past the hard one"),
        (lambda c: c.pause(""), "queue is a name"),
        (lambda c: c.add_consumer(None), "queue is a name"),
        (lambda c: c.rate_limit(3, "1/s"), "task_name is a name"),
    ],
)
def test_nonsense_is_refused_before_any_worker_hears_of_it(app: CloudQ, call: Any, error: str) -> None:
    with pytest.raises((TypeError, ValueError), match=error):
        call(app.control)
    assert app.control.boards.read().version is None


def test_pauses_are_remembered_until_resumed(app: CloudQ, clock: JumpingClock) -> None:
    since = clock.time()
    app.control.pause("q")
    clock.advance(10**7)
    app.control.pause("q")
    assert app.control.paused() == {"q": since}
    assert app.control.resume("q")
    assert not app.control.resume("q")
    assert app.control.paused() == {}


def test_what_is_shown_is_short_and_keeps_secrets() -> None:
    class Bad:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    assert shown({"user": "a", "API_Password2": "x", "deep": [{"token": 1}]}, ["password", "token"]) == (
        "{'user': 'a', 'API_Password2': '***', 'deep': [{'token': '***'}]}"
    )
    assert len(shown("x" * 9999)) == LIMIT
    assert "its repr raised RuntimeError" in shown(Bad())


# --- a worker in this process ----------------------------------------------------------------------


@pytest.fixture
def live() -> Iterator[CloudQ]:
    with CloudQ(
        "live", broker="memory://", backend="memory://", control_interval=0.05, worker_heartbeat_interval=0.1
    ) as app:

        @app.task(name="add", rate_limit="100/s")
        def add(x: int, y: int) -> int:
            return x + y

        yield app


def test_a_worker_answers_every_question(live: CloudQ) -> None:
    gate, begun = threading.Event(), threading.Event()

    @live.task(name="slow")
    def slow(word: str, password: str = "") -> None:
        begun.set()
        gate.wait(20)

    with running_worker(live, concurrency=1, hostname="w1") as worker:
        first = live.send_task("slow", ("a",), {"password": "hush"})
        assert begun.wait(20)
        second = live.send_task("slow", ("b",))
        while len(worker.running) < 2:
            time.sleep(0.005)
        ask = live.control.inspect(timeout=20)

        [active] = ask.active()["w1"]
        assert (active["id"], active["name"], active["args"]) == (first.id, "slow", "['a']")
        assert active["kwargs"] == "{'password': '***'}"
        assert [each["id"] for each in ask.reserved()["w1"]] == [second.id]
        assert ask.scheduled() == {"w1": []}
        assert ask.registered("rate_limit")["w1"] == ["add [rate_limit='100/s']", "slow [rate_limit=None]"]
        assert ask.stats()["w1"]["concurrency"] == 1
        assert ask.revoked() == {"w1": []}
        assert ask.active_queues()["w1"][0]["name"] == "cloudq"
        assert ask.conf()["w1"]["monitoring"] == "workers"
        found = ask.query_task(first.id, [second.id, "other"])["w1"]
        assert {name: state for name, (state, _) in found.items()} == {
            first.id: "active",
            second.id: "reserved",
        }
        assert live.control.inspect(["w1"], 20).ping() == {"w1": {"ok": "pong"}}
        assert live.control.inspect(["nobody"], 20).ping() == {}
        gate.set()
    assert live.control.workers() == []


def test_a_worker_obeys_and_says_what_it_cannot_do(live: CloudQ) -> None:
    with running_worker(live, concurrency=2, hostname="w1") as worker:

        def told(command: str, **args: Any) -> Any:
            [answer] = live.control.broadcast(command, args, reply=True, timeout=20) or [{}]
            return answer["w1"]

        assert told("pool_grow", n=3) == {"ok": "5 at once"}
        assert told("pool_shrink", n=4) == {"ok": "1 at once"}
        assert "at least 1 must remain" in told("pool_shrink", n=1)["error"]
        assert (worker.concurrency, worker.pool.size) == (1, 1)  # type: ignore[union-attr]
        assert "no processes to replace" in told("pool_restart")["error"]
        assert told("rate_limit", task_name="add", rate_limit="7/m")["ok"] == "rate limit of add is 7/m"
        assert live.tasks["add"].rate_limit == "7/m"
        assert "a rate is" in told("rate_limit", task_name="add", rate_limit="fast")["error"]
        assert "no task 'sub'" in told("rate_limit", task_name="sub", rate_limit="1/s")["error"]
        assert told("time_limit", task_name="add", soft=2, hard=3)["ok"].endswith("soft 2 s, hard 3 s")
        assert live.tasks["add"].time_limit == 3
        assert "knows no command 'dance'" in told("dance")["error"]
        assert "unexpected" in told("ping", loudly=True)["error"]
        with pytest.raises(OperationalError, match="worker w1: this worker knows no command"):
            live.control.inspect(timeout=20)._ask("dance")


def test_the_bounds_of_autoscaling_are_changed(live: CloudQ) -> None:
    with running_worker(live, concurrency=1, hostname="w1") as worker:

        def told() -> Any:
            [answer] = live.control.autoscale(6, 3, reply=True, timeout=20)
            return answer["w1"]

        assert "started without --autoscale" in told()["error"]
        scaler = Autoscaler(worker, 4, 1)
        live.hooks.fire("worker_ready", worker=worker)
        try:
            assert told() == {"ok": "autoscaling between 3 and 6"}
            assert scaler.look() == 3
        finally:
            scaler.close()
    with pytest.raises(ValueError, match="the most"):
        live.control.autoscale(2, 3)


def test_queues_are_paused_added_and_given_up(live: CloudQ) -> None:
    live.control.pause("cloudq")
    with running_worker(live, ["cloudq"], hostname="w1") as worker:
        first = live.send_task("add", (1, 2))
        assert worker.sources == []
        assert live.control.inspect(timeout=20).active_queues()["w1"][0]["paused"]
        assert not first.ready()
        live.control.resume("cloudq")
        assert first.get(timeout=20) == 3

        assert live.control.add_consumer("more", reply=True, timeout=20)[0]["w1"] == {"ok": "consuming more"}
        assert live.send_task("add", (2, 2), queue="more").get(timeout=20) == 4
        [again] = live.control.add_consumer("more", reply=True, timeout=20)
        assert again["w1"] == {"ok": "already consuming more"}
        live.control.cancel_consumer("more", reply=True, timeout=20)
        assert [each.queue for each in worker.sources] == ["cloudq"]
        [wrong] = live.control.cancel_consumer("more", reply=True, timeout=20)
        assert "is not consumed here; consumed: cloudq" in wrong["w1"]["error"]


def test_an_order_is_carried_out_once_and_not_by_those_who_come_later(live: CloudQ) -> None:
    with running_worker(live, concurrency=1, hostname="w1") as first:
        live.control.pool_grow(1, reply=True, timeout=20)
        live.control.ping(timeout=20)
        assert first.concurrency == 2
        with running_worker(live, concurrency=1, hostname="w2") as second:
            assert len(live.control.ping(timeout=20)) == 2
            assert second.concurrency == 1


def test_shutdown_is_answered_first(live: CloudQ) -> None:
    with running_worker(live, hostname="w1") as worker:
        assert live.control.shutdown(reply=True, timeout=20) == [{"w1": {"ok": "stopping"}}]
        while not worker.stopping:
            time.sleep(0.005)


def test_off_costs_no_read_and_no_write() -> None:
    counting = Counting(open_backend("memory://", ManualClock()))
    with CloudQ("off", broker="memory://", backend=counting, monitoring="off", control_interval=0.01) as app:

        @app.task(name="add", ignore_result=True)
        def add(x: int, y: int) -> int:
            return x + y

        with running_worker(app):
            app.send_task("add", (1, 2))
            while app.broker.depth("cloudq").total:
                time.sleep(0.005)
        assert set(counting.calls) <= {"read"}
        assert counting.calls["read"] <= 1  # the check at the start


def test_two_of_one_name_are_told_of(live: CloudQ, caplog: pytest.LogCaptureFixture) -> None:
    live.control.roster.beat(info("w1", live.clock.time(), host="elsewhere"))
    with running_worker(live, hostname="w1"):
        assert "another worker is called w1" in caplog.text


def test_no_key_is_shown_by_inspect_conf() -> None:
    from cloudq.settings import NAMES, SECRET

    keys = {name for name in NAMES if name.endswith(("_key", "_keys", "_secret", "_token", "_password"))}
    assert keys <= set(SECRET)


def test_what_a_limit_or_its_group_holds_back_is_seen(live: CloudQ) -> None:
    @live.task(name="rare", rate_limit="1/h")
    def rare(n: int) -> int:
        return n

    # Sent before anybody polls: a group's later message stays in the queue while an earlier one is in hand.
    sent = [live.send_task("rare", (n,), queue="q.fifo", group_id="g") for n in range(3)]
    with running_worker(live, ["q.fifo"], hostname="w1") as worker:
        assert sent[0].get(timeout=20) == 0
        while not (worker.waiting and len(worker._groups.listed()) == 1):
            time.sleep(0.005)
        ask = live.control.inspect(timeout=20)
        [held] = ask.scheduled()["w1"]
        assert (held["request"]["id"], held["request"]["args"]) == (sent[1].id, "[1]")
        assert held["eta"] > live.clock.time() + 600
        assert [each["id"] for each in ask.reserved()["w1"]] == [sent[2].id]


def test_an_answer_that_is_too_long_is_an_answer_too(live: CloudQ, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = live.need_store().backend
    write = backend.write

    def narrow(key: str, value: bytes, *args: Any, **kwargs: Any) -> Any:
        if key.startswith("answers/") and len(value) > 300:
            raise ValueTooLarge(f"{len(value)} bytes")
        return write(key, value, *args, **kwargs)

    monkeypatch.setattr(backend, "write", narrow)
    with running_worker(live, hostname="w1"):
        with pytest.raises(OperationalError, match="the answer is too long"):
            live.control.inspect(timeout=20).conf()
        assert live.control.ping(timeout=20)


def test_a_store_that_is_away_keeps_no_worker_from_stopping(
    live: CloudQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloudq.worker.steering.SIGN_OFF", 0.1)
    never = threading.Event()
    with running_worker(live, hostname="w1"):
        monkeypatch.setattr(live.control.roster, "leave", lambda hostname: never.wait(60))
        began = time.monotonic()
    assert time.monotonic() - began < 30
    never.set()


def test_what_a_poll_in_flight_still_brings_from_a_paused_queue_is_given_back(live: CloudQ) -> None:
    live.control.pause("cloudq")
    with running_worker(live, ["cloudq"], hostname="w1") as worker:
        result = live.send_task("add", (1, 2))
        worker._deliver(live.broker.receive("cloudq", 1, 0.0, 30.0))
        while live.broker.depth("cloudq").visible == 0:
            assert not result.ready()
    assert live.broker.depth("cloudq").visible == 1
    assert not result.ready()
