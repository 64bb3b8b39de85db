"""Credit: who may ask a queue for how many messages, on a clock that stands still."""

import threading
import time
from collections.abc import Iterator

import pytest

from cloudq.errors import ImproperlyConfigured
from cloudq.worker.credit import GATHER, PROMPT, RECKONING, Credit, Lane
from cloudq.worker.intake import Intake, concurrency_of, order_of, parse


class Hands:
    """A clock moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Hands:
    return Hands()


def poll(lane: Lane, got: int, most: int = 10) -> int:
    """Ask, and be answered with up to ``got`` messages; how many came."""
    ask = lane.ask(most)
    if ask is None:
        return -1
    came = min(got, ask.count)
    lane.answer(ask, came)
    return came


def held(*lanes: Lane) -> list[int]:
    return [lane.held for lane in lanes]


# --- one lane --------------------------------------------------------------------------------------


def test_a_lane_gets_what_is_free(clock: Hands) -> None:
    credit = Credit(3, monotonic=clock)
    lane = credit.lane()

    assert poll(lane, 2) == 2
    assert poll(lane, 5) == 1
    assert poll(lane, 5) == -1
    lane.give(2)
    assert poll(lane, 5) == 2
    assert credit.held == 3


def test_two_polls_at_once_are_not_given_the_same_places(clock: Hands) -> None:
    lane = Credit(12, monotonic=clock).lane()
    first, second, third = lane.ask(10), lane.ask(10), lane.ask(10)

    assert first is not None
    assert second is not None
    assert (first.count, second.count, third) == (10, 2, None)


def test_a_poll_gets_company_while_half_of_the_places_are_free(clock: Hands) -> None:
    lane = Credit(40, monotonic=clock).lane()
    capped = Credit(400, monotonic=clock).lane(most=40)
    for each in (lane, capped):
        asks = [each.ask(10) for _ in range(4)]
        assert [ask is not None and ask.more for ask in asks] == [True, True, False, False]


def test_a_poll_that_waits_for_an_empty_queue_blocks_nobody(clock: Hands) -> None:
    credit = Credit(4, monotonic=clock)
    idle, busy = credit.lane(), credit.lane()
    assert idle.ask(4) is not None
    assert busy.ask(4) is None
    clock.now += PROMPT

    ask = busy.ask(4)
    assert ask is not None
    assert ask.count == 4


def test_idle_lanes_ask_for_little_since_all_of_them_may_answer_at_once(clock: Hands) -> None:
    credit = Credit(9, monotonic=clock)
    lanes = [credit.lane() for _ in range(3)]
    for lane in lanes:
        poll(lane, 0)

    asks = [lane.ask(10) for lane in lanes]
    assert [ask.count for ask in asks if ask] == [3, 3, 3]


def test_a_waiter_is_woken_by_a_free_place_and_by_the_end() -> None:
    credit = Credit(1)
    lane = credit.lane()
    poll(lane, 1)
    got: list[object] = []
    waiter = threading.Thread(target=lambda: got.extend([lane.ask(10, 10.0), lane.ask(10, 10.0)]))
    waiter.start()
    lane.give()
    while not got and credit.held:
        time.sleep(0.005)
    credit.close()
    waiter.join(5)

    assert not waiter.is_alive()
    assert lane.ask(1, 10.0) is None


def test_a_failed_poll_gives_its_places_back(clock: Hands) -> None:
    lane = Credit(4, monotonic=clock).lane()
    ask = lane.ask(10)
    assert ask is not None
    lane.answer(ask, None)

    assert poll(lane, 4) == 4


def test_what_was_given_may_be_taken_again_even_where_no_place_is_free(clock: Hands) -> None:
    lane = Credit(2, monotonic=clock).lane()
    assert poll(lane, 2) == 2
    lane.give()
    assert poll(lane, 1) == 1
    lane.take()

    assert lane.held == 3
    lane.give()
    assert poll(lane, 1) == -1


# --- a limit of its own ----------------------------------------------------------------------------


def test_a_lane_never_holds_more_than_its_own_limit_however_slow_its_polls_are(clock: Hands) -> None:
    credit = Credit(20, monotonic=clock)
    lane = credit.lane(most=3)
    asks = []
    while (ask := lane.ask(2)) is not None:
        asks.append(ask)
        clock.now += 10 * PROMPT
    for ask in asks:
        lane.answer(ask, ask.count)

    assert lane.held == 3
    assert lane.ask(1) is None
    lane.give()
    assert poll(lane, 10) == 1


def test_a_full_lane_leaves_the_rest_to_others(clock: Hands) -> None:
    credit = Credit(20, "strict", monotonic=clock)
    small, large = credit.lane(most=2), credit.lane()
    assert poll(small, 10) == 2

    assert poll(large, 10) == 10
    assert poll(large, 10) == 8


# --- orders ----------------------------------------------------------------------------------------


@pytest.fixture
def rivals() -> Iterator[list[threading.Thread]]:
    """Threads that want places all the time."""
    threads: list[threading.Thread] = []
    yield threads
    for each in threads:
        each.join(5)
        assert not each.is_alive()


def compete(credit: Credit, lanes: list[Lane], rivals: list[threading.Thread]) -> None:
    """Every lane's queue is deep: each thread asks, gets and asks again."""

    def want(lane: Lane) -> None:
        while (ask := lane.ask(1, 30.0)) is not None:
            lane.answer(ask, 1)

    for lane in lanes:
        rivals.append(threading.Thread(target=want, args=(lane,)))
        rivals[-1].start()
    settle(credit, lanes)


def settle(credit: Credit, lanes: list[Lane]) -> None:
    """Until all places are taken and every lane waits for the next one."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with credit._changed:
            if credit.held >= credit.limit and all(lane.hungry for lane in lanes):
                return
        time.sleep(0.0005)
    raise AssertionError(f"{[(lane.held, lane.hungry) for lane in lanes]}")


def turn_over(credit: Credit, lanes: list[Lane], places: int) -> None:
    """Tasks end, always of the lane that holds most, and their places are taken anew."""
    for _ in range(places):
        max(lanes, key=lambda lane: lane.held).give()
        settle(credit, lanes)


def test_fair_means_that_busy_queues_hold_alike(rivals: list[threading.Thread]) -> None:
    credit = Credit(12)
    lanes = [credit.lane() for _ in range(3)]
    for _ in range(12):
        poll(lanes[0], 1, 1)  # the first one had everything
    compete(credit, lanes, rivals)
    turn_over(credit, lanes, 12)
    credit.close()

    assert held(*lanes) == [4, 4, 4]


def test_weights_are_shares_of_the_places(rivals: list[threading.Thread]) -> None:
    credit = Credit(12, "weighted")
    lanes = [credit.lane(3.0), credit.lane(1.0)]
    for _ in range(12):
        poll(lanes[1], 1, 1)
    compete(credit, lanes, rivals)
    for _ in range(9):
        lanes[1].give()
        settle(credit, lanes)
    credit.close()

    assert held(*lanes) == [9, 3]


def test_a_queue_alone_gets_everything_whatever_its_weight(clock: Hands) -> None:
    credit = Credit(10, "weighted", monotonic=clock)
    heavy, light = credit.lane(9.0), credit.lane(1.0)
    poll(heavy, 0)

    for _ in range(10):
        poll(light, 1, 1)
    assert light.held == 10


def test_strict_gives_nothing_to_a_queue_while_one_before_it_has_messages(clock: Hands) -> None:
    credit = Credit(10, "strict", monotonic=clock)
    first, second = credit.lane(), credit.lane()

    assert second.ask(1) is None  # nobody has looked at the first yet
    assert poll(first, 3, 3) == 3
    assert second.ask(1) is None  # it had some: there may be more
    assert poll(first, 3, 3) == 3
    assert second.ask(1) is None
    assert poll(first, 0) == 0
    assert poll(second, 2) == 2


def test_strict_takes_a_poll_that_is_not_answered_at_once_for_an_empty_queue(clock: Hands) -> None:
    credit = Credit(10, "strict", monotonic=clock)
    first, second = credit.lane(), credit.lane()
    poll(first, 3, 3)
    long_poll = first.ask(3)
    assert second.ask(1) is None
    clock.now += PROMPT

    assert poll(second, 2, 2) == 2
    assert long_poll is not None
    first.answer(long_poll, 1)  # and now it has one
    assert second.ask(1) is None


def test_strict_gives_a_freed_place_to_the_first_that_waits(
    rivals: list[threading.Thread], clock: Hands
) -> None:
    credit = Credit(6, "strict", monotonic=clock)
    first, second, third = (credit.lane() for _ in range(3))
    for lane in (first, second):
        poll(lane, 0)
    for _ in range(6):
        poll(third, 1, 1)
    compete(credit, [first, second, third], rivals)
    for _ in range(5):
        third.give()
        settle(credit, [first, second, third])
    credit.close()

    assert held(first, second, third) == [5, 0, 1]


def test_strict_does_not_wait_for_a_queue_that_cannot_be_asked(clock: Hands) -> None:
    credit = Credit(10, "strict", monotonic=clock)
    broken, second = credit.lane(), credit.lane()
    ask = broken.ask(1)
    assert ask is not None
    broken.answer(ask, None)

    assert poll(second, 2) == 2


# --- what the command line says --------------------------------------------------------------------


def test_queues_with_their_share() -> None:
    assert parse(["a", "b=8", "c:3", "d.fifo=2:0.5", "a"]) == [
        Intake("a"),
        Intake("b", 8),
        Intake("c", None, 3.0),
        Intake("d.fifo", 2, 0.5),
    ]


@pytest.mark.parametrize("text", ["a=", "a=x", "a:-1", "=8", "a b", "a=8=9", "a=0", "a:0", ""])
def test_what_is_no_queue_is_refused_with_the_right_form(text: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"write NAME|leave it out"):
        parse([text])


def test_a_queue_given_twice_and_differently_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="twice"):
        parse(["a=1", "a=2"])


def test_the_order_follows_from_the_setting_and_the_weights() -> None:
    assert order_of(parse(["a", "b"]), "fair") == "fair"
    assert order_of(parse(["a", "b"]), "strict") == "strict"
    assert order_of(parse(["a:2", "b"]), "fair") == "weighted"
    with pytest.raises(ImproperlyConfigured, match="a weight, but the order is strict"):
        order_of(parse(["a", "b:2"]), "strict")
    with pytest.raises(ImproperlyConfigured, match="no queue has a weight"):
        order_of(parse(["a", "b"]), "weighted")
    with pytest.raises(ImproperlyConfigured, match="did you mean 'strict'"):
        order_of(parse(["a"]), "strickt")


def test_the_workers_concurrency_is_the_sum_where_every_queue_says_its_own() -> None:
    assert concurrency_of(parse(["a=8", "b=2"])) == 10
    assert concurrency_of(parse(["a=8", "b"])) is None
    assert concurrency_of(parse(["a"])) is None


# --- pace ---------------------------------------------------------------------------------------------


def test_fast_tasks_over_a_slow_line_are_asked_for_ahead_of_time(clock: Hands) -> None:
    credit = Credit(10, monotonic=clock, ahead=50)
    lane = credit.lane()
    for _ in range(100):  # a poll of ten takes 0.1 s, its messages are done at once
        ask = lane.ask(10)
        assert ask is not None
        clock.now += 0.1
        lane.answer(ask, ask.count)
        lane.give(ask.count)
    assert 10 < credit.limit <= 60
    ahead = credit.limit
    clock.now += 5.0  # nothing was done for long: no more than can start
    last = lane.ask(100)
    assert last is not None
    assert last.count == 10 < ahead


def test_slow_tasks_are_not_asked_for_ahead_of_time(clock: Hands) -> None:
    credit = Credit(10, monotonic=clock, ahead=50)
    lane = credit.lane()
    for _ in range(20):
        ask = lane.ask(10)
        assert ask is not None
        clock.now += 0.01
        lane.answer(ask, ask.count)
        clock.now += 10.0
        lane.give(ask.count)
    assert credit.limit == 10


def test_without_prefetch_nothing_is_asked_for_ahead(clock: Hands) -> None:
    credit = Credit(10, monotonic=clock)
    lane = credit.lane()
    for _ in range(100):
        ask = lane.ask(10)
        assert ask is not None
        clock.now += 0.1
        lane.answer(ask, ask.count)
        lane.give(ask.count)
    assert credit.limit == 10


def test_a_poll_waits_a_moment_for_places_that_are_about_to_be_free(clock: Hands) -> None:
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        lane.give(9)

    credit = Credit(20, monotonic=clock, sleep=nap)
    lane = credit.lane()
    work(credit, lane, clock, rate=10_000)
    assert poll(lane, 10) == poll(lane, 9) + 1 == 10
    ask = lane.ask(10)

    assert ask is not None
    assert ask.count == 10
    assert len(naps) == 1
    assert 0.0004 < naps[0] < GATHER  # until half of what it holds is done


def test_a_poll_waits_for_several_at_once_where_much_is_held(clock: Hands) -> None:
    naps: list[float] = []
    credit = Credit(1, monotonic=clock, ahead=120, sleep=naps.append)
    lane = credit.lane()
    for _ in range(2_000):  # up to ten a millisecond: 50 places are held ahead for 5 ms
        ask = lane.ask(10)
        clock.now += 0.001
        if ask is not None:
            lane.answer(ask, ask.count)
            lane.give(min(lane.held, 10))
    assert 40 <= credit.limit <= 121
    while (room := credit.room(lane, clock.now)) >= 10:
        assert poll(lane, 10) == 10
    if not room:
        lane.give()
        room = 1
    naps.clear()
    asked = lane.ask(10)

    assert asked is not None
    assert len(naps) == 1
    assert naps[0] >= (10 - room) / 10_000


def test_a_poll_does_not_wait_for_places_that_take_longer(clock: Hands) -> None:
    def nap(seconds: float) -> None:
        raise AssertionError(f"waited {seconds} s")

    credit = Credit(20, monotonic=clock, sleep=nap)
    lane = credit.lane()
    work(credit, lane, clock, rate=1_000)
    assert poll(lane, 10) == poll(lane, 9) + 1 == 10
    ask = lane.ask(10)

    assert ask is not None
    assert ask.count == 1


def work(credit: Credit, lane: Lane, clock: Hands, rate: float) -> None:
    """For a while, so many messages a second are received and done with."""
    for _ in range(10):
        poll(lane, 10)
        clock.now += 10 / rate + RECKONING / 10
        lane.give(int(rate * RECKONING / 10) + 10)
        lane.take(int(rate * RECKONING / 10))
    clock.now += RECKONING / 10


def test_a_queue_that_answers_at_once_is_asked_by_one_poll_after_the_other(clock: Hands) -> None:
    lane = Credit(64, monotonic=clock).lane()

    def more(trip: float) -> bool:
        """Does a poll want company, after many that took so long?"""
        for _ in range(40):
            ask = lane.ask(10)
            assert ask is not None
            clock.now += trip
            lane.answer(ask, ask.count)
            lane.give(ask.count)
        ask = lane.ask(10)
        assert ask is not None
        lane.answer(ask, 0)
        return ask.more

    assert more(0.0009) is False
    assert more(0.01) is True
    assert more(0.0009) is False


def test_one_answer_tells_whether_a_queue_is_near(clock: Hands) -> None:
    for trip, company in ((0.0009, False), (0.01, True)):
        lane = Credit(64, monotonic=clock).lane()
        first = lane.ask(10)
        assert first is not None
        assert first.more, "nothing is known yet"
        clock.now += trip
        lane.answer(first, 10)
        second = lane.ask(10)
        assert second is not None
        assert second.more is company
