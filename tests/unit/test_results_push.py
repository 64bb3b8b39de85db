"""result_push: ends of tasks are announced through a queue; what is lost there costs time only."""

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from cloudq import CloudQ, Reject
from cloudq.clock import SYSTEM_CLOCK
from cloudq.errors import ImproperlyConfigured, QueueNotFound
from cloudq.execution.call import NoWatch
from cloudq.results.push import REPLY_TO
from cloudq.runtime.verdict import Ack, Bury
from cloudq.testing.stores import Counting, MemoryStore


class House:
    """One app that is client and worker; tasks are run by hand."""

    def __init__(self, **settings: Any) -> None:
        self.store = Counting(MemoryStore(SYSTEM_CLOCK))
        settings = {"result_push": True, "result_push_queue": "replies", **settings}
        self.app = CloudQ("push", broker="memory://", backend=self.store, **settings)
        self.lifecycle = self.app.lifecycle("w")

        @self.app.task(name="add")
        def add(x: int, y: int = 0) -> int:
            return x + y

        self.add = add

    def run(self) -> list[Any]:
        verdicts = []
        for each in self.app.broker.receive("cloudq", 10, 0.0, 30.0):
            verdicts.append(self.lifecycle.run(each, NoWatch()))
            self.app.broker.ack([each])
        return verdicts

    def replies(self) -> list[dict[str, Any]]:
        found = self.app.broker.receive("replies", 10, 0.0, 30.0)
        self.app.broker.ack(found)
        return [msgspec.json.decode(each.body) for each in found]


@pytest.fixture
def house() -> Iterator[House]:
    house = House()
    yield house
    house.app.close()


def threads(name: str) -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == name]


def test_the_end_of_a_task_is_announced_after_its_record_is_written(house: House) -> None:
    result = house.add.delay(1, 2)
    order: list[str] = []
    post = house.app.broker.send
    house.app.broker.send = lambda queue, messages: (  # type: ignore[method-assign]
        order.append(f"{queue}, {result.state}"),
        post(queue, messages),
    )[1]
    assert house.run() == [Ack()]
    assert order == ["replies, SUCCESS"]
    assert house.replies() == [{"id": result.id, "state": "SUCCESS"}]


def test_failures_rejections_and_revocations_are_announced_too(house: House) -> None:
    @house.app.task(name="fails")
    def fails() -> None:
        raise ValueError("x")

    @house.app.task(name="rejects")
    def rejects() -> None:
        raise Reject("no")

    sent = [fails.delay(), rejects.delay(), house.add.apply_async((1,), expires=-1)]
    house.run()
    assert {(each["id"], each["state"]) for each in house.replies()} == set(
        zip([each.id for each in sent], ["FAILURE", "REJECTED", "REVOKED"], strict=True)
    )


def test_a_waiter_reads_when_it_is_told_and_otherwise_once_a_second(house: House) -> None:
    result = house.add.delay(1, 2)
    got: list[Any] = []
    waiting = threading.Thread(target=lambda: got.append((result.get(timeout=10), time.monotonic())))
    waiting.start()
    time.sleep(0.3)
    house.run()
    told = time.monotonic()
    waiting.join(10)
    assert got[0][0] == 3
    assert got[0][1] - told < 0.5
    assert house.store.calls["read_many"] == 2  # at once, and when it was told
    assert house.app.poller.waiting == 0


def test_many_asyncio_waiters_share_one_listener(house: House) -> None:
    async def main() -> None:
        results = [house.add.delay(n) for n in range(50)]
        tasks = [asyncio.create_task(each.aget(timeout=10)) for each in results]
        await asyncio.sleep(0.05)
        assert len(threads("cloudq-results-push")) == 1
        for _ in range(5):
            await asyncio.to_thread(house.run)
        assert await asyncio.gather(*tasks) == list(range(50))

    asyncio.run(main())


def test_an_announcement_that_cannot_be_sent_fails_nothing(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    result = house.add.delay(1, 2)
    post = house.app.broker.send

    def send(queue: str, messages: Any) -> Any:
        if queue == "replies":
            raise QueueNotFound("no queue replies")
        return post(queue, messages)

    house.app.broker.send = send  # type: ignore[method-assign]
    assert house.run() == [Ack()]
    assert "no queue replies" in caplog.text
    assert result.get(timeout=30) == 3


def test_a_reply_queue_that_cannot_be_read_means_polling_as_usual(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    receive = house.app.broker.receive

    def failing(queue: str, *rest: Any) -> Any:
        if queue == "replies":
            raise QueueNotFound("no queue replies")
        return receive(queue, *rest)

    house.app.broker.receive = failing  # type: ignore[method-assign]
    result = house.add.delay(1, 2)
    threading.Timer(0.1, house.run).start()
    assert result.get(timeout=5) == 3
    assert not house.app.poller.announced
    assert "reading the reply queue replies: no queue replies; results are polled for" in caplog.text


@pytest.mark.parametrize("body", ["", "{", "[]", '{"id":3}', '{"id":"nobody","state":"SUCCESS"}'])
def test_whatever_else_stands_in_the_reply_queue_is_taken_away(house: House, body: str) -> None:
    house.app.producer.post("replies", body)
    result = house.add.delay(1, 2)
    threading.Timer(0.05, house.run).start()
    assert result.get(timeout=5) == 3
    end = time.monotonic() + 30
    while house.app.broker.depth("replies").total and time.monotonic() < end:
        time.sleep(0.01)
    assert house.app.broker.depth("replies").total == 0


def test_later_steps_answer_to_who_began(house: House) -> None:
    worker = House(result_push_queue="the-workers-own")
    sent: list[str] = []

    @worker.app.task(name="parent")
    def parent() -> str:
        return worker.add.delay(5).id

    call = house.app.send_task("parent", link=house.add.s(1))
    [message] = house.app.broker.receive("cloudq", 1, 0.0, 30.0)
    assert msgspec.json.decode(message.body)["headers"] == {REPLY_TO: "replies"}
    worker.app.producer.post("cloudq", message.body)
    worker.run()
    for each in worker.app.broker.receive("cloudq", 10, 0.0, 30.0):
        document = msgspec.json.decode(each.body)
        sent.append(document["headers"][REPLY_TO])
        assert document["root_id"] == call.id
    assert sent == ["replies", "replies"]
    worker.app.close()


def test_who_ignores_results_or_does_not_push_hears_nothing(house: House) -> None:
    house.add.apply_async((1,), ignore_result=True)
    plain = House(result_push=False)
    plain.add.delay(1)
    for each in (house, plain):
        each.run()
        assert each.app.broker.depth("replies").total == 0
    assert house.add.apply((1, 2)).get() == 3  # inline: nobody to tell
    assert house.app.broker.depth("replies").total == 0


@pytest.mark.parametrize(
    ("queue", "says"), [(None, "needs result_push_queue"), ("q.fifo", "is a FIFO queue")]
)
def test_a_push_without_a_proper_queue_is_refused_at_the_call(queue: str | None, says: str) -> None:
    house = House(result_push_queue=queue)
    with pytest.raises(ImproperlyConfigured, match=says):
        house.add.delay(1)


def test_closing_the_app_ends_waits_and_the_listener(house: House) -> None:
    errors: list[Exception] = []

    def wait() -> None:
        try:
            house.app.AsyncResult("never").get(timeout=10)
        except Exception as error:
            errors.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    while not house.app.poller.waiting:
        time.sleep(0.005)
    house.app.close()
    waiting.join(5)
    assert "the app was closed while task never was waited for" in str(errors[0])
    end = time.monotonic() + 30
    while threads("cloudq-results-push") and time.monotonic() < end:
        time.sleep(0.01)
    assert not threads("cloudq-results-push")


def test_what_is_buried_is_not_announced(house: House) -> None:
    house.app.producer.post("cloudq", '{"task": "unknown"}')
    [verdict] = house.run()
    assert isinstance(verdict, Bury)
    assert house.replies() == []
