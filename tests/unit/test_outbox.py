"""``with app.batch():``: calls are collected, sent by tens, and answered for at the end of the block."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from cloudq import CloudQ
from cloudq.brokers.base import Message
from cloudq.brokers.open import open_broker
from cloudq.errors import (
    OperationalError,
    QueueNotFound,
    SendError,
    SerializationError,
    ServiceUnavailable,
    TimeoutError,
)
from cloudq.testing.clock import ManualClock


class Recorder:
    """A broker that notes each send, and refuses what it is told to."""

    def __init__(self, broker: Any) -> None:
        self._broker = broker
        self.sends: list[tuple[str, int]] = []
        self.refused: dict[str, Exception] = {}
        self.away: OperationalError | None = None

    def send(self, queue: str, messages: Sequence[Message]) -> list[str]:
        self.sends.append((queue, len(messages)))
        if self.away is not None:
            raise self.away
        bad = {
            n: error
            for n, each in enumerate(messages)
            for mark, error in self.refused.items()
            if mark in each.body
        }
        if bad:
            good = [n for n in range(len(messages)) if n not in bad]
            ids = self._broker.send(queue, [messages[n] for n in good]) if good else []
            raise SendError(bad, dict(zip(good, ids, strict=True)))
        found: list[str] = self._broker.send(queue, messages)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)


@pytest.fixture
def app() -> Iterator[CloudQ]:
    clock = ManualClock()
    recorder: Any = Recorder(open_broker("memory://", clock))
    with CloudQ("batched", broker=recorder, backend="memory://", clock=clock) as app:

        @app.task(name="add")
        def add(x: int, y: int = 0) -> int:
            return x + y

        @app.task(name="once", unique="until_finish")
        def once(x: int) -> int:
            return x

        yield app


@pytest.fixture
def broker(app: CloudQ) -> Recorder:
    found: Any = app.broker
    return found  # type: ignore[no-any-return]


def queued(app: CloudQ) -> list[list[Any]]:
    """The arguments of all messages, in order."""
    found = []
    while deliveries := app.broker.receive("cloudq", 10, 0.0, 60.0):
        for each in deliveries:
            envelope = app.codec.decode(each.body, each.queue, each.message_id)
            found.append([envelope.id, *envelope.args])
    return found


def test_calls_of_a_block_go_out_by_tens_and_at_its_end(app: CloudQ, broker: Recorder) -> None:
    add = app.tasks["add"]
    with app.batch() as batch:
        results = [add.delay(n) for n in range(23)]
        assert broker.sends == [("cloudq", 10), ("cloudq", 10)]
        assert len(batch) == 3
    assert broker.sends == [("cloudq", 10), ("cloudq", 10), ("cloudq", 3)]
    assert queued(app) == [[each.id, n] for n, each in enumerate(results)]
    assert batch.ids == [each.id for each in results]


def test_each_queue_is_collected_for_itself(app: CloudQ, broker: Recorder) -> None:
    with app.batch():
        for n in range(4):
            app.tasks["add"].apply_async((n,), queue=f"q{n % 2}")
        assert broker.sends == []
    assert sorted(broker.sends) == [("q0", 2), ("q1", 2)]


def test_after_the_block_calls_go_out_at_once(app: CloudQ, broker: Recorder) -> None:
    with app.batch():
        pass
    app.tasks["add"].delay(1)
    assert broker.sends == [("cloudq", 1)]


def test_after_an_error_in_the_block_nothing_more_is_sent(app: CloudQ, broker: Recorder) -> None:
    with pytest.raises(ZeroDivisionError), app.batch():
        for n in range(12):
            app.tasks["add"].delay(n)
        raise ZeroDivisionError
    assert broker.sends == [("cloudq", 10)]
    app.tasks["add"].delay(99)
    assert [each[1] for each in queued(app)] == [*range(10), 99]


def test_refused_calls_are_named_together_at_the_end_and_all_others_are_sent(
    app: CloudQ, broker: Recorder
) -> None:
    broker.refused = {'"args":[3]': QueueNotFound("no"), '"args":[11]': QueueNotFound("no")}
    results = []
    with pytest.raises(SendError) as caught, app.batch():
        results += [app.tasks["add"].delay(n) for n in range(14)]
    assert list(caught.value.failures) == [3, 11]
    assert caught.value.tasks == {3: results[3].id, 11: results[11].id}
    assert f"position 3 (task {results[3].id})" in str(caught.value)
    assert [each[1] for each in queued(app)] == [n for n in range(14) if n not in (3, 11)]
    assert set(caught.value.sent.values()) == {r.id for n, r in enumerate(results) if n not in (3, 11)}


def test_a_broker_that_is_away_ends_the_block_at_its_first_ten(app: CloudQ, broker: Recorder) -> None:
    broker.away = QueueNotFound("there is no such queue")
    made = 0
    with pytest.raises(SendError) as caught, app.batch():
        for n in range(100):
            made += 1
            app.tasks["add"].delay(n)
    assert made == 10
    assert sorted(caught.value.failures) == list(range(10))
    assert broker.sends == [("cloudq", 10)]


def test_an_outage_at_the_end_is_raised_there(app: CloudQ, broker: Recorder) -> None:
    with pytest.raises(SendError, match="1 of 1"), app.batch():
        app.tasks["add"].apply_async((1,), retry=False)
        broker.away = ServiceUnavailable("away")


def test_arguments_are_sent_as_they_were_at_the_call(app: CloudQ) -> None:
    row = [1]
    with app.batch():
        app.tasks["add"].delay(row)
        row.append(2)
    assert [each[1] for each in queued(app)] == [[1]]


def test_what_cannot_be_written_is_refused_at_the_call(app: CloudQ, broker: Recorder) -> None:
    with app.batch():
        with pytest.raises(SerializationError):
            app.tasks["add"].delay(object())
        app.tasks["add"].delay(1)
    assert [each[1] for each in queued(app)] == [1]


def test_the_innermost_block_collects_and_sends_at_its_own_end(app: CloudQ, broker: Recorder) -> None:
    add = app.tasks["add"]
    with app.batch():
        add.delay(1)
        with app.batch():
            add.delay(2)
            add.delay(3)
        assert broker.sends == [("cloudq", 2)]
        add.delay(4)
    assert [each[1] for each in queued(app)] == [2, 3, 1, 4]


def test_other_threads_and_other_apps_send_at_once(app: CloudQ, broker: Recorder) -> None:
    with CloudQ("other", broker="memory://", backend="memory://") as other, app.batch() as batch:
        thread = threading.Thread(target=lambda: app.tasks["add"].delay(1))
        thread.start()
        thread.join()
        assert broker.sends == [("cloudq", 1)]
        other.send_task("add", (1,))
        assert len(batch) == 0
        assert other.broker.depth("cloudq").visible == 1


def test_a_call_of_a_unique_task_is_not_collected(app: CloudQ, broker: Recorder) -> None:
    with app.batch():
        first, second = app.tasks["once"].delay(1), app.tasks["once"].delay(1)
    assert first.id == second.id
    assert broker.sends == [("cloudq", 1)]


def test_hooks_see_a_call_when_it_is_made_and_when_it_is_sent(app: CloudQ) -> None:
    seen: list[str] = []
    app.hooks.on("before_publish", lambda **_: seen.append("before"))
    app.hooks.on("task_sent", lambda **_: seen.append("sent"))
    with app.batch():
        app.tasks["add"].delay(1)
        app.tasks["add"].delay(2)
        assert seen == ["before", "before"]
    assert seen == ["before", "before", "sent", "sent"]


def test_a_block_is_used_once(app: CloudQ) -> None:
    batch = app.batch()
    with batch:
        pass
    with pytest.raises(RuntimeError, match="anew"), batch:
        pass


def test_asyncio_collects_what_is_awaited_in_the_block_and_what_tasks_started_there_call(
    app: CloudQ, broker: Recorder
) -> None:
    add = app.tasks["add"]

    async def main() -> None:
        async def outside() -> None:
            await add.adelay(100)

        before = asyncio.create_task(outside())
        await before
        async with app.batch():
            await add.adelay(1)
            await asyncio.gather(add.adelay(2), add.adelay(3))
            assert broker.sends == [("cloudq", 1)]
        await add.adelay(4)

    asyncio.run(main())
    assert broker.sends == [("cloudq", 1), ("cloudq", 3), ("cloudq", 1)]


def test_a_task_of_asyncio_that_outlives_the_block_sends_at_once(app: CloudQ, broker: Recorder) -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def late() -> None:
            await go.wait()
            await app.tasks["add"].adelay(1)

        async with app.batch():
            task = asyncio.create_task(late())
            await asyncio.sleep(0)
        go.set()
        await task

    asyncio.run(main())
    assert broker.sends == [("cloudq", 1)]


# --- waiting inside the block ----------------------------------------------------------------------


def test_waiting_inside_the_block_for_what_it_holds_is_refused_at_once(app: CloudQ) -> None:
    with app.batch():
        first, second = app.tasks["add"].delay(1), app.tasks["add"].delay(2)
        for wait in (first.get, lambda: first.get(timeout=0), app.ResultSet([first, second]).join):
            with pytest.raises(RuntimeError, match=r"with app\.batch\(\).* until the block ends"):
                wait()
        with pytest.raises(RuntimeError, match=first.id):
            next(app.ResultSet([first]).iter_native())
    assert len(queued(app)) == 2  # the refusals took nothing out of the block


async def test_awaiting_inside_the_block_is_refused_as_well(app: CloudQ) -> None:
    async with app.batch():
        result = await app.tasks["add"].adelay(1)
        with pytest.raises(RuntimeError, match=result.id):
            await result.aget()
        with pytest.raises(RuntimeError, match=result.id):
            await app.ResultSet([result]).aget()


def test_what_has_gone_out_may_be_waited_for_inside_the_block(app: CloudQ) -> None:
    with app.batch():
        results = [app.tasks["add"].delay(n) for n in range(11)]
        with pytest.raises(TimeoutError):
            results[0].get(timeout=0)  # of the ten that went out together
        with pytest.raises(RuntimeError):
            results[10].get()
    with pytest.raises(TimeoutError):
        results[10].get(timeout=0)


def test_another_thread_may_wait_for_what_a_block_holds(app: CloudQ) -> None:
    told: list[BaseException] = []

    def wait(result: Any) -> None:
        try:
            result.get(timeout=0)
        except BaseException as error:
            told.append(error)

    with app.batch():
        result = app.tasks["add"].delay(1)
        thread = threading.Thread(target=contextvars.copy_context().run, args=(wait, result))
        thread.start()
        thread.join()
    assert [type(each) for each in told] == [TimeoutError]


async def test_an_asyncio_task_started_in_the_block_may_wait_for_what_it_holds(app: CloudQ) -> None:
    async with app.batch():
        result = await app.tasks["add"].adelay(1)
        waiting = asyncio.create_task(result.aget(timeout=0.01))
        await asyncio.wait([waiting])
    assert isinstance(waiting.exception(), TimeoutError)
