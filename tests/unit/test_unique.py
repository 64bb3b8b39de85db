"""Unique tasks: a duplicate is not sent, its caller gets the first one's result, and nothing is swallowed."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from drivers import DRIVERS
from stage import Stage

from cloudq import CloudQ, Ignore, Reject, chain, group
from cloudq.brokers.base import Message
from cloudq.coordination.unique import Held, Taken, UniqueLocks
from cloudq.errors import (
    ImproperlyConfigured,
    SendError,
    ServiceUnavailable,
    TaskRevokedError,
    Unsupported,
)
from cloudq.execution.call import NoWatch
from cloudq.runtime.ready import Ready
from cloudq.testing.clock import JumpingClock
from cloudq.testing.stores import MemoryStore


@pytest.fixture(params=DRIVERS)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    stage = Stage(JumpingClock(), request.param)
    yield stage
    stage.close()


def depth(stage: Stage) -> int:
    return stage.app.broker.depth("cloudq").total


# --- declaring -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"unique": "until_end"}, '"until_start", "until_finish" or a number of seconds'),
        ({"unique": True}, "a number of seconds, got True"),
        ({"unique": 0}, "a number of seconds, got 0"),
        ({"unique_on": "shop"}, "unique_on needs unique"),
        ({"unique": 5, "unique_on": "shp"}, "unique_on names 'shp'"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_declaration(options: dict[str, Any], said: str) -> None:
    app = CloudQ("t", broker="memory://", backend="memory://")
    with pytest.raises(ImproperlyConfigured, match=said):

        @app.task(**options)
        def sync(shop: str) -> None: ...


def test_locks_need_a_results_store() -> None:
    app = CloudQ("t", broker="memory://", backend="disabled://")

    @app.task(name="sync", unique="until_finish")
    def sync() -> None: ...

    with pytest.raises(ImproperlyConfigured, match="unique tasks keep their locks in the results store"):
        sync.delay()


# --- duplicates --------------------------------------------------------------------------------------


def test_a_duplicate_is_not_sent_and_gets_the_first_ones_result(stage: Stage) -> None:
    @stage.app.task(name="sync", unique="until_finish")
    def sync(shop: str, full: bool = False) -> str:
        stage.note()
        return f"{shop} in sync"

    first, again = sync.delay("a"), sync.delay(shop="a", full=False)
    other = sync.delay("a", True)
    assert (first.id == again.id, first.id == other.id, depth(stage)) == (True, False, 2)

    stage.run_all(stage.app.lifecycle("w1"))
    assert again.get(timeout=1) == "a in sync"
    assert sync.delay("a").id != first.id


def test_unique_on_says_which_arguments_count(stage: Stage) -> None:
    @stage.app.task(name="sync", unique="until_finish", unique_on="shop")
    def sync(shop: str, note: str = "") -> None: ...

    @stage.app.task(name="load", unique="until_finish", unique_on=lambda rows: str(len(rows)))
    def load(rows: list[int]) -> None: ...

    assert sync.delay("a", "x").id == sync.delay("a", note="y").id
    assert load.delay([1, 2]).id == load.delay([3, 4]).id
    assert depth(stage) == 2


def test_tuples_and_lists_are_the_same_and_what_has_no_spelling_is_refused(stage: Stage) -> None:
    @stage.app.task(name="load", unique="until_finish")
    def load(rows: Any) -> None: ...

    assert load.delay((1, {"b": 1, "a": 2})).id == load.delay([1, {"a": 2, "b": 1}]).id
    with pytest.raises(TypeError, match="unique: a object cannot be part of a key"):
        load.delay(object())


def test_until_start_lets_the_next_be_sent_while_the_first_runs(stage: Stage) -> None:
    @stage.app.task(name="sync", unique="until_start")
    def sync() -> None: ...

    first = sync.delay()
    worker = stage.app.lifecycle("w1")
    [delivery] = stage.receive()
    assert isinstance(worker.prepare(delivery), Ready)

    second = sync.delay()
    assert second.id != first.id
    assert sync.delay().id == second.id


def test_a_number_of_seconds_holds_whatever_becomes_of_the_task(stage: Stage) -> None:
    @stage.app.task(name="sync", unique=60)
    def sync() -> None: ...

    first = sync.delay()
    stage.run_all(stage.app.lifecycle("w1"))
    stage.clock.advance(55)
    assert sync.delay().id == first.id
    stage.clock.advance(10)
    assert sync.delay().id != first.id


def test_duplicates_in_one_send_many_are_one(stage: Stage) -> None:
    @stage.app.task(name="sync", unique="until_finish")
    def sync(shop: int) -> int:
        return shop

    results = stage.app.send_many([sync.s(n % 15) for n in range(45)])
    assert (len(results), len({each.id for each in results}), depth(stage)) == (45, 15, 15)
    stage.run_all(stage.app.lifecycle("w1"))
    assert [each.get(timeout=1) for each in results] == [n % 15 for n in range(45)]


def test_links_of_a_unique_task_are_refused_for_a_duplicates_would_be_lost(stage: Stage) -> None:
    @stage.app.task(name="sync", unique="until_finish")
    def sync() -> None: ...

    with pytest.raises(Unsupported, match="task sync is unique"):
        sync.apply_async(link=sync.s())


def test_members_of_workflows_are_always_sent(stage: Stage) -> None:
    @stage.app.task(name="sync", unique="until_finish")
    def sync(n: int = 0) -> int:
        stage.note()
        return n

    results = group(sync.si(1), sync.si(1)).delay()
    chain(sync.si(1), sync.si(1)).delay()
    stage.run_all(stage.app.lifecycle("w1"))

    assert results.get(timeout=1) == [1, 1]
    assert len(stage.starts) == 4


# --- when the lock is freed ----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["success", "failure", "ignore", "reject"])
def test_the_lock_is_free_after_the_end_whatever_it_was(stage: Stage, how: str) -> None:
    @stage.app.task(name="sync", unique="until_finish")
    def sync() -> None:
        if how == "failure":
            raise ValueError(how)
        if how == "ignore":
            raise Ignore
        if how == "reject":
            raise Reject("no")

    first = sync.delay()
    assert sync.delay().id == first.id
    stage.run_all(stage.app.lifecycle("w1"))
    assert sync.delay().id != first.id


def test_the_lock_is_kept_over_retries(stage: Stage) -> None:
    @stage.app.task(name="sync", bind=True, unique="until_finish", max_retries=1, default_retry_delay=10)
    def sync(self: Any) -> int:
        if self.request.retries == 0:
            self.retry()
        return int(self.request.retries)

    first = sync.delay()
    worker = stage.app.lifecycle("w1")
    stage.run_all(worker, seconds=1)
    assert (first.state, sync.delay().id) == ("RETRY", first.id)
    stage.run_all(worker)
    assert (first.get(timeout=1), sync.delay().id == first.id) == (1, False)


def test_a_task_that_expires_or_is_revoked_frees_its_lock(stage: Stage) -> None:
    @stage.app.task(name="sync", unique="until_finish")
    def sync(n: int) -> None: ...

    expired, revoked = sync.apply_async((1,), expires=60), sync.delay(2)
    worker = stage.app.lifecycle("w1")
    worker.revoked = lambda envelope: "revoked" if envelope.id == revoked.id else None
    stage.clock.advance(30)
    assert sync.delay(1).id == expired.id
    stage.clock.advance(40)  # nothing runs, but the first one never will any more
    assert sync.delay(1).id != expired.id
    stage.run_all(worker)
    with pytest.raises(TaskRevokedError):
        revoked.get(timeout=1)
    assert sync.delay(2).id != revoked.id


def test_a_task_that_began_before_its_expiry_keeps_its_lock_while_it_runs(stage: Stage) -> None:
    @stage.app.task(name="sync", unique="until_finish")
    def sync() -> None: ...

    first = sync.apply_async(expires=60)
    [delivery] = stage.receive()
    assert isinstance(stage.app.lifecycle("w1").prepare(delivery), Ready)
    stage.clock.advance(100)
    assert sync.delay().id == first.id


def test_a_buried_message_frees_its_lock(stage: Stage) -> None:
    @stage.app.task(name="sync", unique="until_finish")
    def sync(n: int) -> None: ...

    first = sync.delay(1)

    with CloudQ("other", broker=stage.app.broker, backend=stage.app.backend, clock=stage.clock) as other:
        [delivery] = stage.receive()
        stage.carry_out(delivery, other.lifecycle("w1").run(delivery, NoWatch()))
        assert sync.delay(1).id != first.id
        other._opened = type(other._opened)()  # what it used is ours


def test_the_message_of_a_killed_worker_keeps_the_lock_until_it_has_ended(stage: Stage) -> None:
    @stage.app.task(name="sync", unique="until_finish")
    def sync() -> str:
        return "done"

    first = sync.delay()
    [delivery] = stage.receive()
    assert isinstance(stage.app.lifecycle("dead").prepare(delivery), Ready)
    stage.clock.advance(100)
    assert sync.delay().id == first.id
    stage.run_all(stage.app.lifecycle("w2"))
    assert first.get(timeout=1) == "done"
    assert sync.delay().id != first.id


def test_a_lock_whose_message_was_lost_ends_with_its_time(stage: Stage) -> None:
    @stage.app.task(name="sync", unique="until_finish", unique_expires=3600)
    def sync() -> None: ...

    first = sync.delay()
    stage.app.broker.purge("cloudq")
    assert sync.delay().id == first.id
    stage.clock.advance(3700)
    assert sync.delay().id != first.id


# --- dying between two steps ---------------------------------------------------------------------------


class Dies(BaseException):
    """The process is gone."""


def test_a_death_between_lock_and_publishing_swallows_no_later_call(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    @stage.app.task(name="sync", unique="until_finish")
    def sync() -> str:
        stage.note()
        return "done"

    # what a process leaves that dies right after taking the lock
    locks = UniqueLocks(stage.app.need_store().backend, stage.clock)
    taken: list[Taken] = []
    real = UniqueLocks.take

    def take(self: UniqueLocks, name: str, task_id: str, grace: float) -> Any:
        found = real(locks, name, task_id, grace)
        assert isinstance(found, Taken)
        taken.append(found)
        raise Dies

    with monkeypatch.context() as patch:
        patch.setattr(UniqueLocks, "take", take)
        with pytest.raises(Dies):
            sync.delay()
    assert depth(stage) == 0

    began = stage.clock.time()
    result = sync.delay()  # waits till it is sure that nobody publishes, then sends it
    assert 10 <= stage.clock.time() - began < 30
    assert (result.id, depth(stage)) == (taken[0].id, 1)
    stage.run_all(stage.app.lifecycle("w1"))
    assert (result.get(timeout=1), len(stage.starts)) == ("done", 1)


def test_a_death_between_publishing_and_marking_leaves_a_duplicate_that_is_recognised(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    @stage.app.task(name="sync", unique="until_finish")
    def sync() -> str:
        stage.note()
        return "done"

    with monkeypatch.context() as patch:
        patch.setattr(UniqueLocks, "sent", lambda *_: (_ for _ in ()).throw(Dies()))
        with pytest.raises(Dies):
            sync.delay()
    assert depth(stage) == 1
    result = sync.delay()
    assert depth(stage) == 2  # nobody knew that it was out

    first, second = stage.receive()
    worker = stage.app.lifecycle("w1")
    for delivery in (first, second):
        stage.carry_out(delivery, worker.run(delivery, NoWatch()))
    assert (result.get(timeout=1), len(stage.starts)) == ("done", 1)
    assert len({delivery.message_id for delivery in (first, second)}) == 2
    assert {stage.app.codec.decode(d.body, d.queue, d.message_id).id for d in (first, second)} == {result.id}
    assert sync.delay().id != result.id


def test_a_call_that_could_not_be_published_leaves_no_lock(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    @stage.app.task(name="sync", unique="until_finish")
    def sync(n: int) -> None: ...

    def refuse(queue: str, messages: Sequence[Message]) -> list[str]:
        raise ServiceUnavailable("no queue today")

    with monkeypatch.context() as patch:
        patch.setattr(stage.app.broker, "send", refuse)
        with pytest.raises(ServiceUnavailable):
            sync.apply_async((1,), retry=False)
        with pytest.raises(SendError) as caught:
            stage.app.send_many([sync.s(1), sync.s(2), sync.s(1)], retry=False)
    assert sorted(caught.value.failures) == [0, 1, 2]
    began = stage.clock.time()
    sync.delay(1)
    assert (depth(stage), stage.clock.time()) == (1, began)


def test_a_task_that_ends_before_its_lock_is_marked_leaves_no_lock(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    @stage.app.task(name="sync", unique="until_finish")
    def sync() -> None: ...

    real = UniqueLocks.sent
    worker = stage.app.lifecycle("w1")

    def slow(self: UniqueLocks, taken: Taken, until: float) -> None:
        stage.run_all(worker)
        real(self, taken, until)

    monkeypatch.setattr(UniqueLocks, "sent", slow)
    first = sync.delay()
    assert first.successful()
    assert sync.delay().id != first.id


def test_many_callers_at_once_send_one(stage: Stage) -> None:
    clock = stage.clock
    store = MemoryStore(clock)
    locks = [UniqueLocks(store, clock) for _ in range(8)]
    found: list[Any] = []

    def call(number: int) -> None:
        got = locks[number].take("name", f"t{number}", 15)
        if isinstance(got, Taken):
            locks[number].sent(got, clock.time() + 1000)
        found.append(got)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    ids = {each.id for each in found}
    assert len(ids) == 1
    assert sum(isinstance(each, Held) for each in found) >= 1


def test_a_lock_is_freed_only_by_its_own_task() -> None:
    clock = JumpingClock()
    locks = UniqueLocks(MemoryStore(clock), clock)
    taken = locks.take("name", "t1", 15)
    assert isinstance(taken, Taken)
    locks.sent(taken, clock.time() + 100)
    assert not locks.release("name", "t2")
    assert locks.take("name", "t3", 15) == Held("t1")
    assert locks.release("name", "t1")
    assert not locks.release("name", "t1")
