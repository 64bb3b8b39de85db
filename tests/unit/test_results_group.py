"""ResultSet and GroupResult: many results asked and waited for together."""

import asyncio
import threading
from collections.abc import Iterable
from typing import Any

import pytest

from cloudq import CloudQ, GroupResult, ResultSet, states
from cloudq.clock import SYSTEM_CLOCK
from cloudq.errors import CorruptRecord, TimeoutError
from cloudq.results.group import result_from_tuple
from cloudq.results.record import Record
from cloudq.results.store import task_key
from cloudq.testing.stores import Counting, MemoryStore


class House:
    """An app over a counted store, whose tasks a test ends by hand."""

    def __init__(self) -> None:
        self.store = Counting(MemoryStore(SYSTEM_CLOCK))
        self.app = CloudQ("groups", broker="memory://", backend=self.store)

    def end(self, *ids: str, state: str = states.SUCCESS, result: Any = None) -> None:
        for each in ids:
            self.app.need_store().finish(Record(each, state, each.upper() if result is None else result))

    def set(self, ids: Iterable[str]) -> ResultSet[Any]:
        return self.app.ResultSet([self.app.AsyncResult(each) for each in ids])

    def group(self, ids: Iterable[str], id: str = "g") -> GroupResult[Any]:
        return self.app.GroupResult(id, [self.app.AsyncResult(each) for each in ids])


@pytest.fixture
def house() -> House:
    return House()


def later(seconds: float, call: Any) -> None:
    threading.Timer(seconds, call).start()


def test_join_gives_values_in_the_order_of_the_results(house: House) -> None:
    house.end("c", "a", "b")
    seen: list[tuple[str, Any]] = []

    assert house.set("abc").join(timeout=1, callback=lambda *each: seen.append(each)) == ["A", "B", "C"]
    assert seen == [("a", "A"), ("b", "B"), ("c", "C")]


def test_waiting_ends_as_the_tasks_do(house: House) -> None:
    results = house.set("ab")
    house.end("b")
    later(0.03, lambda: house.end("a"))
    seen = []

    assert results.join_native(timeout=5, callback=lambda each, value: seen.append(each)) == ["A", "B"]
    assert seen == ["b", "a"]


def test_iter_native_gives_results_in_the_order_in_which_they_end(house: House) -> None:
    house.end("c")
    later(0.03, lambda: house.end("b"))
    later(0.12, lambda: house.end("a", state=states.FAILURE, result=ValueError("no")))

    found = list(house.set("abc").iter_native(timeout=5))

    assert [each for each, _ in found] == ["c", "b", "a"]
    assert [meta["status"] for _, meta in found] == ["SUCCESS", "SUCCESS", "FAILURE"]
    assert found[0][1]["result"] == "C"
    assert isinstance(found[2][1]["result"], ValueError)


def test_the_timeout_is_for_the_whole_and_names_what_is_missing(house: House) -> None:
    house.end("a")

    with pytest.raises(TimeoutError, match=r"2 of 3 tasks have not ended within 0.1 seconds; one of them: b"):
        house.set("abc").join(timeout=0.1)

    assert house.app.poller.waiting == 0


def test_a_timeout_of_zero_still_sees_what_has_ended(house: House) -> None:
    house.end("a", "b")
    assert house.set("ab").join(timeout=0) == ["A", "B"]
    with pytest.raises(TimeoutError):
        house.set("abc").join(timeout=0)


def test_join_raises_the_first_failure_in_order_and_join_native_the_first_in_time(house: House) -> None:
    def run(results: ResultSet[Any], join: Any) -> str:
        with pytest.raises(ValueError) as caught:
            join(results, timeout=5)
        return str(caught.value)

    house.end("b", state=states.FAILURE, result=ValueError("b failed"))
    later(0.05, lambda: house.end("a", state=states.FAILURE, result=ValueError("a failed")))
    assert run(house.set("ab"), ResultSet.join_native) == "b failed"
    assert run(house.set("ab"), ResultSet.join) == "a failed"
    assert house.app.poller.waiting == 0


def test_propagate_false_leaves_exceptions_among_the_values(house: House) -> None:
    house.end("a")
    house.end("b", state=states.FAILURE, result=KeyError("x"))
    values = house.set("ab").join(timeout=1, propagate=False)
    assert values[0] == "A"
    assert isinstance(values[1], KeyError)


def test_the_asyncio_twins(house: House) -> None:
    async def main() -> None:
        results = house.set("ab")
        house.end("b")
        later(0.03, lambda: house.end("a"))
        assert [each async for each, _ in results.aiter_native(timeout=5)] == ["b", "a"]
        assert await house.set("ab").aget(timeout=5) == ["A", "B"]
        assert await house.set("ab").ajoin(timeout=5) == ["A", "B"]
        with pytest.raises(TimeoutError):
            await house.set("abz").aget(timeout=0.05)
        waiting = asyncio.create_task(house.set("xyz").aget())
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await house.set("ab").aforget()

    asyncio.run(main())
    assert house.app.poller.waiting == 0
    assert house.app.read("a") is None


def test_questions_read_in_batches_and_never_twice_what_has_ended(house: House) -> None:
    ids = [f"t{n}" for n in range(250)]
    house.end(*ids[:249])
    results = house.set(ids)
    house.store.calls.clear()

    assert (results.ready(), results.waiting(), results.successful(), results.failed()) == (
        False,
        True,
        False,
        False,
    )
    assert results.completed_count() == 249
    assert house.store.calls == {"read_many": 5}  # one a question
    house.end("t249", state=states.FAILURE, result=ValueError("x"))
    assert (results.ready(), results.failed(), results.completed_count()) == (True, True, 249)
    house.store.calls.clear()
    assert results.ready()
    with pytest.raises(ValueError):
        results.maybe_throw()
    with pytest.raises(ValueError):
        results.join(timeout=1)
    assert not house.store.calls


def test_membership_changes_as_celerys_does(house: House) -> None:
    results = house.set("ab")
    a, b = results.results
    results.add(a)
    results.update([b, house.app.AsyncResult("c")])
    assert [each.id for each in results] == ["a", "b", "c"]
    results.remove("a")
    results.discard("nobody")
    with pytest.raises(KeyError):
        results.remove("a")
    assert (len(results), results[0]) == (2, b)
    assert results == house.set("bc")
    results.clear()
    assert results.join() == []
    with pytest.raises(TypeError):
        hash(results)


def test_groups_in_groups_give_lists_in_lists(house: House) -> None:
    inner = house.group("bc", "inner")
    outer = house.app.GroupResult("outer", [house.app.AsyncResult("a"), inner])
    house.end("a", "b")
    assert (outer.completed_count(), outer.ready()) == (1, False)
    house.end("c")
    assert outer.get(timeout=1) == ["A", ["B", "C"]]
    assert outer.completed_count() == 2


def test_a_group_is_saved_and_restored_with_parent_and_order(house: House) -> None:
    parent = house.app.AsyncResult("p")
    group = house.app.GroupResult("g/1", [house.app.AsyncResult("a"), house.group("bc", "inner")], parent)
    assert group.save() is group

    found = house.app.GroupResult.restore("g/1")

    assert found is not None
    assert found == group
    assert (
        found.as_tuple()
        == group.as_tuple()
        == (
            ("g/1", (("p", None), None)),
            [(("a", None), None), (("inner", None), [(("b", None), None), (("c", None), None)])],
        )
    )
    assert found.parent == parent
    assert found.children == group.results
    assert found.as_list() == ["g/1", "p"]
    group.delete()
    assert house.app.GroupResult.restore("g/1") is None
    assert GroupResult.restore("g/1", app=house.app) is None


def test_a_group_too_large_for_one_item_is_saved_in_pages(house: House) -> None:
    ids = [f"{n:036d}" for n in range(20_000)]
    group = house.group(ids, "big").save()
    assert max(len(house.store.read(key).value) for key in house.store.keys("group/big/")) < 300_000  # type: ignore[union-attr]

    found = house.app.GroupResult.restore("big")

    assert found is not None
    assert [each.id for each in found.results] == ids
    page = next(iter(house.store.keys("group/big/")))
    house.store.delete(page)
    with pytest.raises(CorruptRecord, match=r"group/big in memory:// has lost its page"):
        house.app.GroupResult.restore("big")
    group.delete()
    assert list(house.store.keys("group/big/")) == []


@pytest.mark.parametrize(
    "document",
    [b"\xff", b"[]", b'{"v":1}', b'{"v":1,"members":3}', b'{"v":99,"members":[]}', b'{"v":1,"pages":[1]}'],
)
def test_a_damaged_group_is_an_error_that_names_it(house: House, document: bytes) -> None:
    house.store.write("group/g", document)
    with pytest.raises(CorruptRecord, match=r"group/g in memory://"):
        house.app.GroupResult.restore("g")


def test_a_task_is_a_tuple_and_back(house: House) -> None:
    result = house.app.AsyncResult("b")
    result.parent = house.app.AsyncResult("a")
    assert result.as_tuple() == (("b", (("a", None), None)), None)
    assert result.as_list() == ["b", "a"]
    again = result_from_tuple([["b", [["a", None], None]], None], house.app)  # as JSON gives it back
    assert again == result
    assert again.parent == result.parent
    for wrong in (None, "b", [1, 2], [["b"], None], [[1, None], None], [["b", None], "x"]):
        with pytest.raises(ValueError, match="as_tuple"):
            result_from_tuple(wrong, house.app)


def test_one_damaged_record_fails_a_join_by_name(house: House) -> None:
    house.end("a")
    house.store.write(task_key("b"), b"rubbish")
    with pytest.raises(CorruptRecord, match=r"task/b in memory://"):
        house.set("ab").join(timeout=1)
    with pytest.raises(CorruptRecord, match=r"task/b in memory://"):
        house.set("ab").ready()


def test_waiting_inside_a_task_is_refused_for_sets_too(house: House) -> None:
    @house.app.task(name="waits")
    def waits() -> None:
        house.set("a").join(timeout=1)

    assert isinstance(waits.apply().result, RuntimeError)


def test_ten_thousand_ids_cost_a_hundredth_of_reads_a_round_and_only_while_they_run(house: House) -> None:
    ids = [f"t{n}" for n in range(10_000)]
    done, open_ = ids[:9_900], ids[9_900:]
    house.end(*done)
    asked: list[int] = []
    inner = house.app.need_store().read_each

    def counted(wanted: Iterable[str]) -> Any:
        listed = list(wanted)
        asked.append(len(listed))
        return inner(listed)

    house.app.need_store().read_each = counted  # type: ignore[method-assign]
    results = house.set(ids)
    later(0.2, lambda: house.end(*open_))

    assert len(results.join(timeout=10)) == 10_000

    assert asked[0] == 10_000  # the first look, in the caller's thread
    assert len(asked) > 1
    assert max(asked[1:]) <= 100  # what is left is one batch, and nothing else is read again
