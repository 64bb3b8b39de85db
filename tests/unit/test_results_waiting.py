"""Waiting for results: one poller for all, its pace, its errors, and what it leaves behind."""

import asyncio
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from cloudq import CloudQ, states
from cloudq.clock import SYSTEM_CLOCK
from cloudq.errors import AccessDenied, CorruptRecord, ServiceUnavailable, StoreNotFound, TimeoutError
from cloudq.results.poller import BATCH, FIRST, LAST, Poller
from cloudq.results.record import Record
from cloudq.results.store import task_key
from cloudq.testing.clock import JumpingClock
from cloudq.testing.stores import Counting, MemoryStore, Wrapper

Found = dict[str, Record | CorruptRecord]


def done(task_id: str) -> Record:
    return Record(task_id, states.SUCCESS, task_id.upper())


class Source:
    """Records in a dict; notes when each id was asked for, and can be told to fail."""

    def __init__(self, clock: Any) -> None:
        self.clock = clock
        self.records: Found = {}
        self.rounds: list[tuple[float, list[str]]] = []
        self.fails: Callable[[], Exception | None] = lambda: None
        self.after: Callable[[int], None] = lambda rounds: None

    def __call__(self, ids: Iterable[str]) -> Found:
        listed = list(ids)
        self.rounds.append((self.clock.monotonic(), listed))
        self.after(len(self.rounds))
        if (error := self.fails()) is not None:
            raise error
        return {each: self.records[each] for each in listed if each in self.records}


class Waiter:
    """Watches one id and remembers what it was told."""

    def __init__(self, poller: Poller, task_id: str) -> None:
        self.told: list[tuple[Record | None, Exception | None]] = []
        self.event = threading.Event()
        self.ticket = poller.watch(task_id, self)

    def __call__(self, record: Record | None, error: Exception | None) -> None:
        self.told.append((record, error))
        self.event.set()

    def answer(self) -> Any:
        assert self.event.wait(10)
        [(record, error)] = self.told
        return error or record


def pollers() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "cloudq-results"]


def none_left() -> bool:
    end = time.monotonic() + 60  # ten thousand waiters cost seconds, more on a busy machine
    while pollers() and time.monotonic() < end:
        time.sleep(0.005)
    return not pollers()


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    assert none_left()
    yield
    assert none_left(), "a poller thread outlived its waiters"


@pytest.fixture
def source() -> Source:
    return Source(JumpingClock())


@pytest.fixture
def poller(source: Source) -> Poller:
    return Poller(source, clock=source.clock)


# --- pace ------------------------------------------------------------------------------------------


def test_one_id_is_looked_for_after_milliseconds_and_then_ever_more_slowly_up_to_a_second(
    source: Source, poller: Poller
) -> None:
    start = source.clock.monotonic()
    source.after = lambda rounds: source.records.update(a=done("a")) if rounds == 60 else None

    assert Waiter(poller, "a").answer() == done("a")

    times = [at for at, _ in source.rounds]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert times[0] - start == pytest.approx(FIRST, rel=1e-3)
    assert all(0.85 * FIRST <= gap <= 1.15 * LAST for gap in gaps)
    assert min(gaps[-30:]) >= 0.85 * LAST
    assert len({round(gap, 4) for gap in gaps[-30:]}) > 20  # jitter: waiters of many processes drift apart
    assert sum(gap < 0.5 for gap in gaps) < 20  # it is slow within twenty looks


def test_ten_thousand_ids_are_read_a_hundred_at_a_time_and_each_once_a_round(
    source: Source, poller: Poller
) -> None:
    ids = [f"t{n}" for n in range(10_000)]
    told: list[Any] = []
    rounds = 40

    def end(count: int) -> None:
        if count == rounds * 100:
            source.records.update({each: done(each) for each in ids})

    source.after = end
    start = source.clock.monotonic()
    poller.watch_all({each: lambda record, error: told.append(record) for each in ids})
    assert none_left()

    assert len(told) == 10_000
    assert {len(asked) for _, asked in source.rounds} == {BATCH}
    seen = {each: sum(each in set(asked) for _, asked in source.rounds) for each in ids[:3] + ids[-3:]}
    assert all(rounds <= count <= rounds + 2 for count in seen.values())
    # a big set starts more slowly: 100 reads take no less time than one id's first hundred would
    elapsed = source.rounds[-1][0] - start
    assert elapsed > 0.7 * rounds * LAST


def test_what_has_ended_is_not_read_again(source: Source, poller: Poller) -> None:
    source.records["a"] = done("a")
    source.after = lambda rounds: source.records.update(b=done("b")) if rounds == 5 else None
    tickets = poller.watch_all({"a": lambda *_: None, "b": lambda *_: None})
    assert none_left()
    assert [sorted(asked) for _, asked in source.rounds] == [["a", "b"], *[["b"]] * 4]
    poller.cancel(*tickets)


def test_many_waiters_of_one_id_cost_one_look(source: Source, poller: Poller) -> None:
    source.after = lambda rounds: source.records.update(a=done("a")) if rounds == 10 else None
    told: list[Any] = []
    with poller._changed:  # all arrive before the thread's first look
        for _ in range(500):
            poller.watch("a", lambda record, error: told.append(record))
    assert none_left()
    assert told == [done("a")] * 500
    assert [asked for _, asked in source.rounds] == [["a"]] * 10


def test_a_look_now_reads_at_once(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloudq.results.poller.LAST", 300.0)
    clock = SYSTEM_CLOCK
    source.clock = clock
    poller = Poller(source, clock=clock)
    poller.announced = True  # looks are a safety net: one at once, then rarely
    waiter = Waiter(poller, "a")
    while not source.rounds:
        time.sleep(0.001)
    source.records["a"] = done("a")
    assert poller.look_now("a")
    assert waiter.answer() == done("a")
    assert len(source.rounds) == 2
    assert not poller.look_now("a")


# --- errors ----------------------------------------------------------------------------------------


def test_waiters_wait_on_while_the_store_is_away(
    source: Source, poller: Poller, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "cloudq.results")
    source.records["a"] = done("a")
    source.fails = lambda: ServiceUnavailable("store down") if len(source.rounds) < 30 else None
    assert Waiter(poller, "a").answer() == done("a")
    times = [at for at, _ in source.rounds]
    assert min(b - a for a, b in itertools.pairwise(times)) >= 0.85 * LAST
    assert [each.getMessage() for each in caplog.records] == [
        "waiting for results: store down; trying again",
        "waiting for results: the store answers again",
    ]


@pytest.mark.parametrize(
    "error", [StoreNotFound("no such table"), AccessDenied("GetItem"), KeyError("a plug-in's bug")]
)
def test_an_error_that_will_not_pass_is_raised_to_the_waiters(
    source: Source, poller: Poller, error: Exception
) -> None:
    source.fails = lambda: error
    assert Waiter(poller, "a").answer() is error
    source.fails = lambda: None
    source.records["a"] = done("a")
    assert Waiter(poller, "a").answer() == done("a")  # and the next one is served


def test_a_damaged_record_fails_its_own_waiter_only(source: Source, poller: Poller) -> None:
    damaged = CorruptRecord("task/b is damaged")
    source.records.update(a=done("a"), b=damaged)
    a, b = Waiter(poller, "a"), Waiter(poller, "b")
    assert (a.answer(), b.answer()) == (done("a"), damaged)


def test_a_callback_that_fails_does_not_harm_the_others(
    source: Source, poller: Poller, caplog: pytest.LogCaptureFixture
) -> None:
    source.records.update(a=done("a"))

    def broken(record: Any, error: Any) -> None:
        raise RuntimeError("mine")

    poller.watch("a", broken)
    assert Waiter(poller, "a").answer() == done("a")
    assert none_left()
    assert "a callback of the result a failed" in caplog.text


# --- giving up -------------------------------------------------------------------------------------


def test_who_gives_up_is_not_called_and_its_id_not_read_any_more(source: Source, poller: Poller) -> None:
    waiters = [Waiter(poller, f"t{n}") for n in range(50)]
    for each in waiters:
        poller.cancel(each.ticket)
        poller.cancel(each.ticket)
    assert none_left()
    assert poller.waiting == 0
    assert not any(each.told for each in waiters)


def test_cancelling_one_of_two_waiters_leaves_the_other(source: Source, poller: Poller) -> None:
    one, two = Waiter(poller, "a"), Waiter(poller, "a")
    poller.cancel(one.ticket)
    source.records["a"] = done("a")
    assert two.answer() == done("a")
    assert not one.told


def test_a_poller_of_the_parent_works_in_a_forked_child() -> None:
    source = Source(SYSTEM_CLOCK)
    poller = Poller(source)
    parents = Waiter(poller, "parents")  # its thread runs while the fork happens
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            source.records["mine"] = done("mine")
            poller.cancel(parents.ticket)
            answer = Waiter(poller, "mine").answer()
            os.write(write, str(answer.result).encode())
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert os.read(read, 100) == b"MINE"
    source.records["parents"] = done("parents")
    assert parents.answer() == done("parents")


# --- through results -------------------------------------------------------------------------------


class House:
    def __init__(self, wrap: Callable[[Any], Any] = lambda store: store) -> None:
        self.store = Counting(wrap(MemoryStore(SYSTEM_CLOCK)))
        self.app = CloudQ("waiting", broker="memory://", backend=self.store)

    def end(self, ids: Iterable[str]) -> None:
        for each in ids:
            self.app.need_store().finish(done(each))


def test_two_thousand_asyncio_waiters_and_fifty_threads_share_one_poller() -> None:
    house = House()
    ids = [f"t{n}" for n in range(2_000)]
    seen: set[int] = set()
    values: list[Any] = []

    def get(task_id: str) -> None:
        values.append(house.app.AsyncResult(task_id).get(timeout=20))

    async def main() -> list[Any]:
        threads = [threading.Thread(target=get, args=(each,)) for each in ids[:50]]
        for each in threads:
            each.start()
        tasks = [asyncio.create_task(house.app.AsyncResult(each).aget(timeout=20)) for each in ids]
        await asyncio.sleep(0.3)
        seen.add(len(pollers()))
        house.store.calls.clear()
        started = time.monotonic()
        await asyncio.to_thread(house.end, ids)
        found = await asyncio.gather(*tasks)
        seen.add(len(pollers()))
        for each in threads:
            await asyncio.to_thread(each.join, 10)
        elapsed = time.monotonic() - started
        # 20 batches, each at most once per 0.1 s at this age, however many wait
        assert house.store.calls["read_many"] <= 20 * (elapsed / 0.1 + 2)
        assert house.store.calls["read"] == 0
        return found

    assert asyncio.run(main()) == [each.upper() for each in ids]
    assert sorted(values) == sorted(each.upper() for each in ids[:50])
    assert seen <= {0, 1}


def test_get_waits_through_an_outage_of_the_store() -> None:
    down = threading.Event()
    down.set()

    class Away(Wrapper):
        def before(self, verb: str, key: str) -> None:
            if down.is_set() and verb.startswith("read"):
                raise ServiceUnavailable("away")

    house = House(Away)
    house.end(["a"])
    threading.Timer(0.1, down.clear).start()
    assert house.app.AsyncResult("a").get(timeout=10) == "A"
    down.set()
    with pytest.raises(TimeoutError):
        house.app.AsyncResult("a").get(timeout=0.1)


def test_a_denied_read_is_raised_by_get_at_once() -> None:
    class Denied(Wrapper):
        def before(self, verb: str, key: str) -> None:
            raise AccessDenied("dynamodb:GetItem on table t")

    house = House(Denied)
    with pytest.raises(AccessDenied, match="GetItem"):
        house.app.AsyncResult("a").get(timeout=5)

    async def main() -> None:
        with pytest.raises(AccessDenied, match="GetItem"):
            await house.app.AsyncResult("a").aget(timeout=5)

    asyncio.run(main())


def test_timeouts_and_cancellation_leave_nothing_behind() -> None:
    house = House()

    async def main() -> None:
        tasks = [asyncio.create_task(house.app.AsyncResult(f"t{n}").aget(timeout=0.05)) for n in range(200)]
        more = [asyncio.create_task(house.app.AsyncResult(f"u{n}").aget()) for n in range(200)]
        assert all(
            isinstance(each, TimeoutError) for each in await asyncio.gather(*tasks, return_exceptions=True)
        )
        for each in more:
            each.cancel()
        await asyncio.gather(*more, return_exceptions=True)

    asyncio.run(main())
    with pytest.raises(TimeoutError, match="task t has not ended within 0.02 seconds"):
        house.app.AsyncResult("t").get(timeout=0.02)
    assert house.app.poller.waiting == 0
    assert none_left()


def test_aget_with_no_time_looks_once() -> None:
    house = House()
    house.end(["a"])

    async def main() -> None:
        assert await house.app.AsyncResult("a").aget(timeout=0) == "A"
        with pytest.raises(TimeoutError):
            await house.app.AsyncResult("b").aget(timeout=0)

    asyncio.run(main())


def test_then_calls_back_when_the_task_has_ended_and_cannot_wait_itself() -> None:
    house = House()
    called: list[Any] = []
    came = threading.Event()

    def callback(result: Any) -> None:
        called.append((result.id, result.get()))
        try:
            house.app.AsyncResult("other").get(timeout=1)
        except RuntimeError as error:
            called.append(str(error))
        came.set()

    result = house.app.AsyncResult("a")
    result.then(callback)
    house.end(["a"])
    assert came.wait(5)
    assert called[0] == ("a", "A")
    assert "runs in the thread that waits" in called[1]
    result.then(lambda each: called.append("at once"))
    assert called[-1] == "at once"


def test_then_tells_on_error_of_a_record_that_cannot_be_read() -> None:
    house = House()
    house.store.write(task_key("a"), b"rubbish")
    errors: list[Exception] = []
    house.app.AsyncResult("a").then(lambda each: None, errors.append)
    assert none_left()
    assert [type(each) for each in errors] == [CorruptRecord]


def test_exists_tells_unknown_from_pending() -> None:
    house = House()
    assert not house.app.AsyncResult("a").exists()
    house.app.update_state("a", "PROGRESS", 5)
    assert house.app.AsyncResult("a").exists()


def test_get_leaf_is_the_value_of_the_last_descendant() -> None:
    house = House()
    house.app.need_store().finish(Record("a", states.SUCCESS, 1, children=("b",)))
    house.app.need_store().finish(Record("b", states.SUCCESS, 2))
    assert house.app.AsyncResult("a").get_leaf() == 2


def test_who_waits_beside_a_damaged_record_gets_its_own_result() -> None:
    house = House()
    house.store.write(task_key("b"), b"rubbish")

    async def main() -> list[Any]:
        waiters = [house.app.AsyncResult(each).aget(timeout=5) for each in "abc"]
        threading.Timer(0.05, lambda: house.end("ac")).start()
        return await asyncio.gather(*waiters, return_exceptions=True)

    a, b, c = asyncio.run(main())
    assert (a, c) == ("A", "C")
    assert isinstance(b, CorruptRecord)
