"""Revoke: what callers may ask, what is recorded, what a process that runs tasks makes of it."""

import json
from collections.abc import Iterator
from itertools import count
from random import Random
from typing import Any

import pytest
from drivers import DRIVERS, driven

from cloudq import CloudQ, states
from cloudq.backends.open import open_backend
from cloudq.control.revocations import Revocations
from cloudq.coordination.board import CHUNK, INLINE, Board, Boards, Order, Stamp
from cloudq.errors import ImproperlyConfigured, ServiceUnavailable, TaskRevokedError
from cloudq.execution.call import NoWatch
from cloudq.pools.base import Cancelled
from cloudq.runtime.ready import Ready
from cloudq.runtime.verdict import Ack
from cloudq.serializers.peek import peek
from cloudq.testing import sandbox
from cloudq.testing.box import Sandbox
from cloudq.testing.clock import JumpingClock, ManualClock
from cloudq.testing.stores import Counting, Crashing, Flaky, SimulatedCrash, SlowNames, at_step


@pytest.fixture
def app() -> CloudQ:
    app = CloudQ("bench")

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="note")
    def note(*args: Any) -> list[Any]:
        return list(args)

    @app.task(name="quiet", ignore_result=True)
    def quiet() -> None: ...

    @app.task(name="again", bind=True, max_retries=5)
    def again(self: Any) -> None:
        self.retry(countdown=30)

    return app


@pytest.fixture(params=DRIVERS)
def box(app: CloudQ, request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with sandbox(app, control_interval=0.001) as box, driven(box, request.param):
        yield box


def test_a_pending_task_is_recorded_at_once_and_does_not_run(app: CloudQ, box: Sandbox) -> None:
    result = app.send_task("add", (1, 2))

    result.revoke()

    assert result.state == "REVOKED"
    with pytest.raises(TaskRevokedError, match="revoked"):
        result.get(timeout=1)
    assert [each.state for each in box.drain()] == ["REVOKED"]
    assert app.broker.depth("cloudq").total == 0


async def test_the_asyncio_twin(app: CloudQ, box: Sandbox) -> None:
    result = app.send_task("add", (1, 2))
    await result.arevoke()
    assert result.state == "REVOKED"


def test_link_error_follows_and_link_does_not(app: CloudQ, box: Sandbox) -> None:
    result = app.send_task(
        "add", (1, 2), link=app.signature("note", ("ok",)), link_error=app.signature("note", ("bad",))
    )
    result.revoke()
    box.drain()

    box.assert_sent("note", (result.id, "bad"), times=1)
    box.assert_sent("note", times=1)


def test_a_task_that_has_ended_keeps_its_result(app: CloudQ, box: Sandbox) -> None:
    result = app.send_task("add", (1, 2))
    box.drain()

    assert app.control.revoke(result.id, terminate=True) == {result.id: "SUCCESS"}
    assert app.AsyncResult(result.id).get(timeout=1) == 3


def test_a_task_that_waits_for_its_retry_is_revoked(app: CloudQ, box: Sandbox) -> None:
    result = app.send_task("again")
    box.drain(jump=False)
    assert result.state == "RETRY"

    assert app.control.revoke(result.id) == {result.id: "REVOKED"}
    box.drain()
    assert (result.state, len(box.sent)) == ("REVOKED", 2)


def test_a_delayed_task_is_dropped_on_arrival(app: CloudQ, box: Sandbox) -> None:
    result = app.send_task("add", (1, 2), countdown=5000)
    result.revoke()
    box.advance(4000)

    assert [each.state for each in box.drain()] == ["REVOKED"]


def test_one_that_ignores_its_result_does_not_run_either(app: CloudQ, box: Sandbox) -> None:
    ran: list[str] = []
    app.hooks.on("task_prerun", lambda request, **_: ran.append(request.id))
    first, second = app.send_task("quiet"), app.send_task("quiet", ignore_result=True)
    app.control.revoke([first.id])
    box.drain()

    assert ran == [second.id]


def test_a_running_task_is_left_alone_unless_terminate(app: CloudQ, box: Sandbox) -> None:
    app.update_state("t-1", "STARTED")
    assert app.control.revoke("t-1") == {"t-1": "STARTED"}
    assert app.control.revoke("t-1", terminate=True) == {"t-1": "REVOKED"}


def test_tasks_are_revoked_by_a_stamp_and_by_a_plain_header(app: CloudQ, box: Sandbox) -> None:
    stamped = app.send_task("add", (1, 1), headers={"stamps": {"tenant": ["a", "z"]}})
    plain = app.send_task("add", (1, 2), headers={"tenant": "b"})
    other = app.send_task("add", (1, 3), headers={"tenant": "c"})

    app.control.revoke_by_stamped_headers({"tenant": ["a", "b"]})
    box.drain()

    assert [each.state for each in (stamped, plain, other)] == ["REVOKED", "REVOKED", "SUCCESS"]


def test_groups_are_revoked_with_one_word_to_the_workers(app: CloudQ) -> None:
    clock = ManualClock()
    counting = Counting(open_backend("memory://", clock))
    with app.using(broker="memory://", backend=counting, clock=clock):
        results = app.send_many(app.signature("add", (n, n)) for n in range(30))
        app.ResultSet(results).revoke()

        assert counting.written[app.control.boards.key] == 1
        assert {each.state for each in results} == {"REVOKED"}


def test_an_eager_result_has_ended(app: CloudQ) -> None:
    result = app.signature("add", (1, 2)).apply()
    result.revoke(terminate=True)
    assert result.get() == 3


def test_a_task_is_forgotten_when_its_time_is_over(app: CloudQ) -> None:
    with sandbox(app, revokes_expire=100.0, result_expires=50.0) as box:
        result = app.send_task("add", (1, 2), countdown=200)
        result.revoke()
        assert [each.state for each in box.drain()] == ["SUCCESS"]


@pytest.mark.parametrize("bad", [7, ["a", 3], [""], b"x"])
def test_bad_ids_are_refused(app: CloudQ, box: Sandbox, bad: Any) -> None:
    with pytest.raises(TypeError, match="revoke takes a task's id"):
        app.control.revoke(bad)


def test_bad_headers_and_signals_are_refused(app: CloudQ, box: Sandbox) -> None:
    with pytest.raises(ValueError, match="at least one header"):
        app.control.revoke_by_stamped_headers({})
    with pytest.raises(ValueError, match="at least one value"):
        app.control.revoke_by_stamped_headers({"tenant": []})
    with pytest.raises(TypeError, match="texts or numbers"):
        app.control.revoke_by_stamped_headers({"tenant": {"a": 1}})
    with pytest.raises(ValueError, match="SIGUSR1"):
        app.control.revoke("x", terminate=True, signal="SIGUSR1")
    assert app.control.revoke([]) == {}


def test_without_a_store_there_is_no_control() -> None:
    app = CloudQ("x", broker="memory://", backend="disabled://")
    with pytest.raises(ImproperlyConfigured, match="stores no results"):
        app.AsyncResult("a").revoke()


# --- the lifecycle ---------------------------------------------------------------------------------


def test_a_worker_that_has_not_heard_reads_the_record_if_told_to(app: CloudQ) -> None:
    clock = ManualClock()
    with app.using(broker="memory://", backend="memory://", clock=clock, task_check_revoked=True):
        result = app.send_task("add", (1, 2))
        result.revoke()
        [delivery] = app.broker.receive("cloudq", 1, 0.0, 30.0)
        ran: list[Any] = []
        app.hooks.on("task_prerun", lambda **_: ran.append(1))

        assert app.lifecycle("w").run(delivery, NoWatch()) == Ack()
        assert ran == []


def test_track_started_finds_out_at_no_further_cost(app: CloudQ) -> None:
    clock = ManualClock()
    counting = Counting(open_backend("memory://", clock))
    with app.using(broker="memory://", backend=counting, clock=clock, task_track_started=True):
        result = app.send_task("add", (1, 2), link_error=app.signature("note"))
        result.revoke()
        [delivery] = app.broker.receive("cloudq", 1, 0.0, 30.0)
        lifecycle = app.lifecycle("w")
        counting.calls.clear()

        assert lifecycle.run(delivery, NoWatch()) == Ack()
        assert dict(counting.calls) == {"write": 1}
        assert app.broker.depth("cloudq").visible == 1  # the link_error


def test_a_task_that_runs_is_not_affected_and_ends_as_it_would_have(app: CloudQ) -> None:
    """As in Celery. Nothing told that it ran, so REVOKED was recorded; its end is written over that."""
    with app.using(broker="memory://", backend="memory://", clock=ManualClock()):
        result = app.send_task("add", (1, 2), link=app.signature("note"))
        [delivery] = app.broker.receive("cloudq", 1, 0.0, 30.0)
        lifecycle = app.lifecycle("w")
        ready = lifecycle.prepare(delivery)
        assert isinstance(ready, Ready)
        result.revoke()
        with pytest.raises(TaskRevokedError):
            result.get(timeout=5)

        for _ in range(2):  # a crash before the acknowledgement: it happens twice
            assert lifecycle.settle(ready, lifecycle.execute(ready, NoWatch())) == Ack()
        assert (result.state, result.get(timeout=5)) == ("SUCCESS", 3)
        assert app.AsyncResult(result.id).revoke() is None
        assert result.state == "SUCCESS"
        sent = [json.loads(each.body)["id"] for each in app.broker.receive("cloudq", 10, 0.0, 30.0)]
        assert len(set(sent)) == 1  # its link


@pytest.mark.parametrize("how", ["terminated by its caller", "dropped by a worker", "revoked twice"])
def test_what_a_worker_or_terminate_recorded_is_final_and_what_was_asked_is_not(
    app: CloudQ, how: str
) -> None:
    with app.using(broker="memory://", backend="memory://", clock=ManualClock()):
        result = app.send_task("add", (1, 2), link=app.signature("note"))
        [delivery] = app.broker.receive("cloudq", 1, 0.0, 30.0)
        lifecycle = app.lifecycle("w")
        ready = lifecycle.prepare(delivery)
        assert isinstance(ready, Ready)
        result.revoke()
        if how == "dropped by a worker":
            lifecycle.lost(delivery, Cancelled(started=False))
        else:
            result.revoke(terminate=how == "terminated by its caller")

        assert lifecycle.settle(ready, lifecycle.execute(ready, NoWatch())) == Ack()
        final = how != "revoked twice"
        assert result.state == ("REVOKED" if final else "SUCCESS")
        assert app.broker.depth("cloudq").visible == (0 if final else 1)


@pytest.mark.parametrize("started", [True, False])
def test_what_a_pool_has_stopped_is_recorded(app: CloudQ, started: bool) -> None:
    with app.using(broker="memory://", backend="memory://", clock=ManualClock()):
        result = app.send_task("add", (1, 2), link_error=app.signature("note"))
        [delivery] = app.broker.receive("cloudq", 1, 0.0, 30.0)
        fired: list[str] = []
        app.hooks.on("task_revoked", lambda reason, **_: fired.append(reason))
        lifecycle = app.lifecycle("w")

        for _ in range(2):  # a crash before the acknowledgement: it happens twice
            assert lifecycle.lost(delivery, Cancelled(started)) == Ack()
        assert result.state == "REVOKED"
        assert str(result.result) == ("terminated" if started else "revoked") == fired[0]
        sent = [json.loads(each.body)["id"] for each in app.broker.receive("cloudq", 10, 0.0, 30.0)]
        assert len(set(sent)) == 1


def test_messages_are_told_apart_without_reading_their_arguments() -> None:
    found = peek('{"task": "t", "id": "a", "args": [{"x": 1}], "headers": {"tenant": "b"}}', "m")
    assert (found.task, found.id, found.headers) == ("t", "a", {"tenant": "b"})
    inner = json.dumps({"task": "t", "id": "s"})
    assert peek(json.dumps({"v": 1, "signed": inner, "signature": {}}), "m").id == "s"
    assert peek('{"task": "t"}', "m").id == "m"
    for broken in ("", "{", "[]", '{"id": 7}', '{"signed": 3}'):
        assert peek(broken, "m").id == "m"


# --- the board -------------------------------------------------------------------------------------


def boards(store: Any = None, clock: ManualClock | None = None) -> Boards:
    clock = clock or ManualClock()
    return Boards(store or open_backend("memory://", clock), "n", clock)


def test_an_unchanged_board_costs_one_read() -> None:
    clock = ManualClock()
    counting = Counting(open_backend("memory://", clock))
    mine = boards(counting, clock)
    mine.revoke(["a"], clock.time() + 100, False)
    known = Revocations(mine, clock)
    assert known.look()
    counting.calls.clear()

    assert not known.look()
    assert dict(counting.calls) == {"read": 1}
    assert known.find("a", {}) is not None
    assert known.find("b", {}) is None


def test_many_ids_move_beside_the_board_and_are_read_once() -> None:
    clock = ManualClock()
    counting = Counting(open_backend("memory://", clock))
    mine = boards(counting, clock)
    until = clock.time() + 100
    many = [f"id-{n}" for n in range(CHUNK + INLINE + 10)]
    mine.revoke(many, until, True)
    for n in range(INLINE + 1):
        mine.revoke([f"one-{n}"], until, False)
    board = mine.read().board
    assert (len(board.revoked), len(board.chunks)) == (0, 3)

    known = Revocations(mine, clock)
    known.look()
    assert all(known.find(each, {}) for each in (*many, "one-0", f"one-{INLINE}"))
    mine.revoke(["later"], until, False)
    counting.calls.clear()
    assert known.look()
    assert counting.calls["read"] == 1


def test_what_is_over_leaves_the_board_and_then_the_board_goes() -> None:
    clock = ManualClock()
    store = open_backend("memory://", clock)
    mine = boards(store, clock)
    mine.revoke(["a"], clock.time() + 10, False)
    clock.advance(11)
    mine.revoke(["b"], clock.time() + 10, False)
    assert [each.id for each in mine.read().board.revoked] == ["b"]

    clock.advance(100)
    assert store.read(mine.key) is None
    assert mine.read().board == Board()


def test_revoking_twice_keeps_the_longer_and_the_stronger() -> None:
    clock = ManualClock()
    mine = boards(clock=clock)
    mine.revoke(["a"], clock.time() + 100, True)
    mine.revoke(["a"], clock.time() + 10, False)
    [entry] = mine.read().board.revoked
    assert (entry.terminate, entry.until) == (True, clock.time() + 100)


def test_a_store_that_allows_one_write_a_second_gets_them_all() -> None:
    clock = JumpingClock()
    store = SlowNames(open_backend("memory://", clock), clock)
    mine = boards(store, clock)
    for n in range(3):
        mine.revoke([f"id-{n}"], clock.time() + 1000, False)
    assert len(mine.read().board.revoked) == 3
    assert store.refused > 0


@pytest.mark.parametrize("seed", range(20))
def test_lost_replies_and_refusals_add_an_order_once(seed: int) -> None:
    clock = JumpingClock()
    store = Flaky(open_backend("memory://", clock), Random(seed), refused=0.2, lost=0.2)
    mine = boards(store, clock)
    order = Order("o", "ping", {}, clock.time(), clock.time() + 100)
    mine.change(lambda board: board.with_(orders=(*board.orders, order)))
    while True:
        try:
            assert [each.id for each in mine.read().board.orders] == ["o"]
            return
        except ServiceUnavailable:
            continue


def test_revoke_may_die_anywhere_and_be_repeated(app: CloudQ) -> None:
    """Whatever a dying caller leaves behind, the next one completes; and a worker never sees a broken board."""
    for step in count(1):
        clock = ManualClock()
        inner = open_backend("memory://", clock)
        with app.using(broker="memory://", backend=Crashing(inner, at_step(step)), clock=clock):
            try:
                app.control.revoke("t-1")
            except SimulatedCrash:
                pass
            else:
                break
        with app.using(broker="memory://", backend=inner, clock=clock):
            Revocations(app.control.boards, clock).look()
            assert app.control.revoke("t-1") == {"t-1": states.REVOKED}
            known = Revocations(app.control.boards, clock)
            known.look()
            assert known.find("t-1", {}) is not None
    assert step > 6


def test_a_read_that_fails_is_made_up_for_at_the_next_look() -> None:
    clock = ManualClock()
    inner = open_backend("memory://", clock)
    mine = boards(inner, clock)
    mine.revoke([f"id-{n}" for n in range(INLINE + 1)], clock.time() + 100, False)
    dying = iter([True])
    store = Flaky(inner, Random(1), refused=0.0, lost=0.0)
    store.before = lambda verb, key: _refuse() if "revoked-" in key and next(dying, False) else None  # type: ignore[method-assign]
    known = Revocations(Boards(store, "n", clock), clock)
    with pytest.raises(ServiceUnavailable):
        known.look()
    assert known.look()
    assert known.find("id-7", {}) is not None


def _refuse() -> None:
    raise ServiceUnavailable("not now")


def test_what_is_remembered_ends_in_time_though_the_board_is_unchanged() -> None:
    clock = ManualClock()
    mine = boards(clock=clock)
    mine.revoke(["a"], clock.time() + 10, False)
    mine.change(lambda board: board.with_(stamps=(Stamp("tenant", ("x",), clock.time() + 10),)))
    known = Revocations(mine, clock)
    known.look()
    assert known.find("a", {}) is not None
    assert known.find("b", {"tenant": "x"}) is not None
    assert known.ids() == ["a"]

    clock.advance(11)
    assert not known.look()
    assert known.find("a", {}) is None
    assert known.find("b", {"tenant": "x"}) is None
    assert known.ids() == []
