"""Large workflows: what is too long to travel is in the store, and messages stay small."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from cloudq import CloudQ, chain, chord, group
from cloudq.brokers.base import Message
from cloudq.canvas.freeze import freeze, member_id
from cloudq.canvas.plan import steps_of
from cloudq.errors import ChordError, MessageTooLarge
from cloudq.execution.call import NoWatch
from cloudq.runtime.verdict import Ack

LIMIT = 1024 * 1024


class Bench:
    def __init__(self) -> None:
        self.app = CloudQ("large", broker="memory://", backend="memory://")
        self.longest = 0
        self.handled = 0
        broker: Any = self.app.broker
        send = broker.send

        def measured(queue: str, messages: Sequence[Message]) -> list[str]:
            self.longest = max(self.longest, *(len(each.body) for each in messages))
            found: list[str] = send(queue, messages)
            return found

        broker.send = measured

        @self.app.task(name="add")
        def add(x: Any, y: Any) -> Any:
            return x + y

        @self.app.task(name="total")
        def total(values: Any) -> Any:
            return sum(values)

        @self.app.task(name="fail")
        def fail(*args: Any) -> Any:
            raise ValueError("no")

        self.add, self.total, self.fail = add, total, fail

    def run(self) -> None:
        lifecycle = self.app.lifecycle("w")
        while deliveries := self.app.broker.receive("cloudq", 10, 0.0, 3600.0):
            for delivery in deliveries:
                assert isinstance(lifecycle.run(delivery, NoWatch()), Ack)
            self.handled += len(deliveries)
            self.app.broker.ack(deliveries)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.app.close()


def test_a_chain_of_a_thousand_steps(bench: Bench) -> None:
    last = chain(bench.add.s(0, 1), *[bench.add.s(1) for _ in range(999)]).delay()
    bench.run()

    assert last.get(timeout=0) == 1000
    assert bench.handled == 1000
    assert bench.longest < 16 * 1024
    steps = 0
    node = last
    while node is not None:
        steps += 1
        node = node.parent
    assert steps == 1000


def test_a_chain_of_a_thousand_steps_that_fails_at_the_first(bench: Bench) -> None:
    last = chain(bench.fail.s(), *[bench.add.s(1) for _ in range(999)]).delay()
    bench.run()

    for result in (last, last.parent, last.parent.parent):
        with pytest.raises(ValueError, match="no"):
            result.get(timeout=0)
    assert bench.handled == 1


def test_steps_with_large_arguments_are_put_away_by_size(bench: Bench) -> None:
    text = "x" * 20_000
    last = chain(bench.add.s("", ""), *[bench.add.s(text) for _ in range(20)]).delay()
    assert bench.longest < 64 * 1024
    bench.run()

    assert last.get(timeout=0) == text * 20


def test_a_header_whose_number_is_not_known_beforehand(bench: Bench) -> None:
    made = chord((bench.add.s(n, n) for n in range(2500)), bench.total.s() | bench.add.s(1)).delay()
    bench.run()

    assert made.get(timeout=0) == 2500 * 2499 + 1
    assert bench.handled == 2502
    assert bench.longest < 2048


def test_a_header_that_is_consumed_while_it_already_runs_fires_once_and_not_early(bench: Bench) -> None:
    def members() -> Iterator[Any]:
        for n in range(2200):
            if n == 1500:
                bench.run()  # the first thousand has ended before the rest exists
            yield bench.add.s(n, 0).set(task_id=f"own-{n}") if n % 500 == 0 else bench.add.s(n, 0)

    made = chord(members(), bench.total.s()).delay()
    assert bench.handled == 1000
    bench.run()

    assert made.get(timeout=0) == 2200 * 2199 // 2
    assert bench.handled == 2201


def test_a_failing_member_of_a_large_header_is_named(bench: Bench) -> None:
    made = chord(
        [bench.fail.s() if n == 1234 else bench.add.s(n, 0) for n in range(1500)], bench.total.s()
    ).delay()
    bench.run()

    with pytest.raises(ChordError, match=made.parent[1234].id):
        made.get(timeout=0)


def test_a_large_group_in_the_middle_of_a_chain_is_kept_on_pages(bench: Bench) -> None:
    made = chain(
        bench.add.s(0, 0),
        group(bench.add.s(n) for n in range(3000)),
        bench.total.s(),
        *[bench.add.s(1) for _ in range(120)],
    ).delay()
    bench.run()

    assert made.get(timeout=0) == 3000 * 2999 // 2 + 120
    assert bench.longest < 16 * 1024


def test_a_failure_before_a_large_group_reaches_who_waits_for_it(bench: Bench) -> None:
    made = chain(bench.fail.s(), group(bench.add.s(n) for n in range(400))).delay()
    bench.run()

    with pytest.raises(ValueError, match="no"):
        made[399].get(timeout=0)


def test_what_follows_a_group_is_not_copied_into_every_member(bench: Bench) -> None:
    text = "x" * 100_000
    made = chord([bench.add.s("", "a") for _ in range(20)], bench.app.signature("keep", (text,)))

    @bench.app.task(name="keep")
    def keep(values: Any, text: str) -> Any:
        return len(values), len(text)

    sent = made.delay()
    assert bench.longest < 4096
    bench.run()

    assert sent.get(timeout=0) == [20, 100_000]


def test_a_result_that_no_message_can_hold_fails_the_steps_after_it(bench: Bench) -> None:
    @bench.app.task(name="huge")
    def huge(*args: Any) -> Any:
        return "x" * (LIMIT + 1)

    made = chord([huge.s() | bench.add.s("y") | bench.add.s("z"), bench.add.s(1, 1)], bench.total.s()).delay()
    bench.run()

    with pytest.raises(ChordError, match="MessageTooLarge"):
        made.get(timeout=0)
    assert made.parent[0].parent.parent.state == "SUCCESS"
    with pytest.raises(MessageTooLarge):
        made.parent[0].parent.get(timeout=0)


def test_results_of_a_header_may_be_larger_than_a_message(bench: Bench) -> None:
    @bench.app.task(name="huge")
    def huge(*args: Any) -> Any:
        return "x" * (LIMIT + 1)

    @bench.app.task(name="lengths")
    def lengths(values: Any) -> Any:
        return [len(each) for each in values]

    made = chord([huge.s(), huge.s()], lengths.s()).delay()
    bench.run()

    assert made.get(timeout=0) == [LIMIT + 1] * 2


def test_a_replacement_that_cannot_be_sent_is_the_tasks_failure(bench: Bench) -> None:
    @bench.app.task(name="becomes", bind=True)
    def becomes(self: Any, how: str) -> Any:
        if how == "large":
            return self.replace(bench.add.s("x", "y" * (LIMIT + 1)))
        return self.replace(bench.add.s(1, 1).set(quueue="x"))

    large, wrong = becomes.delay("large"), becomes.delay("wrong")
    bench.run()

    with pytest.raises(MessageTooLarge):
        large.get(timeout=0)
    with pytest.raises(TypeError, match="quueue"):
        wrong.get(timeout=0)


def test_many_chosen_ids(bench: Bench) -> None:
    made = chord([bench.add.s(n, 0).set(task_id=f"mine-{n}") for n in range(200)], bench.total.s()).delay()
    bench.run()

    assert made.get(timeout=0) == 199 * 100
    assert bench.longest < 2048


def test_a_generator_is_consumed_as_it_is_sent(bench: Bench) -> None:
    made = 0
    sent_at: list[int] = []
    broker: Any = bench.app.broker
    send = broker.send

    def counting(queue: str, messages: Sequence[Message]) -> Any:
        sent_at.append(made)
        return send(queue, messages)

    broker.send = counting

    def members() -> Iterator[Any]:
        nonlocal made
        for n in range(5000):
            made += 1
            yield bench.add.s(n, n)

    result = group(members()).delay()

    assert len(result) == 5000
    assert sent_at[0] <= 2000
    assert result[4321].id == member_id(result.id, 4321)


def test_planning_ten_thousand_members_costs_memory_for_their_results_only(bench: Bench) -> None:
    broker: Any = bench.app.broker
    broker.send = lambda queue, messages: [""] * len(messages)

    def peak(count: int) -> int:
        tracemalloc.start()
        result = group(bench.add.s(n, n) for n in range(count)).delay()
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(result) == count
        return top

    first, second = peak(3_000), peak(12_000)

    assert (second - first) / 9_000 < 1200  # bytes: an AsyncResult with its id, no message


def test_ids_are_the_same_whenever_a_workflow_is_planned(bench: Bench) -> None:
    def plan() -> list[Any]:
        steps = steps_of(
            chain(bench.add.s(1, 1), group(bench.add.s(1), bench.add.s(2) | bench.add.s(3)), bench.total.s())
        )
        freeze(steps, "seed", last_id="end")
        return steps

    first, second = plan(), plan()

    assert first == second
    found = str(first)
    assert (
        found.count("'task_id'") == len({part.split("'")[1] for part in found.split("'task_id': ")[1:]}) == 6
    )


def test_a_large_group_keeps_nothing_of_its_members_in_memory(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = 0

    def gone(queue: str, messages: Sequence[Message]) -> list[str]:
        nonlocal sent
        sent += len(messages)
        return [str(sent)] * len(messages)

    monkeypatch.setattr(bench.app.broker, "send", gone)
    group(bench.add.s(n, n) for n in range(1_100)).delay()  # imports, caches
    sent = 0
    tracemalloc.start()
    made = group(bench.add.s(n, n) for n in range(20_000)).delay()
    gc.collect()
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert sent == len(made) == 20_000
    assert kept < 200_000  # a list of the results alone would be 20 times that
    assert peak < 12_000_000  # one chunk of calls
    assert made[7] == made.results[7] == bench.app.AsyncResult(made[7].id)
    assert len({each.id for each in made}) == 20_000
    assert [each.id for each in made[-2:]] == [made[19_998].id, made[19_999].id]
    extra = bench.app.AsyncResult("extra")
    made.add(extra)  # from now on a list
    assert len(made) == 20_001
    assert made[20_000] is extra


def test_the_results_of_a_large_group_find_those_with_ids_of_their_own(bench: Bench) -> None:
    special = bench.add.s(1, 1).set(task_id="mine")
    mixed = (
        special if n == 3 else bench.add.s(n, 1) | bench.add.s(1) if n == 5 else bench.add.s(n, n)
        for n in range(1_500)
    )
    made = group(mixed).delay()
    bench.run()

    assert made[3].id == "mine"
    assert made[5].parent is not None
    values = made.get(timeout=0)
    assert (values[3], values[5], values[1_499]) == (2, 7, 2_998)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("size", [10_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_a_chord_of_very_many_members(bench: Bench, size: int) -> None:
    made = chord((bench.add.s(n, n) for n in range(size)), bench.total.s()).delay()
    bench.run()

    assert made.get(timeout=0) == size * (size - 1)
    assert bench.handled == size + 1
    assert bench.longest < 2048
