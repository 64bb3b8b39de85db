"""Leases: renewed from receipt to settle, never past the ceiling, lost when they are lost."""

import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudq.brokers.base import BrokerCapabilities, Delivery, Refused
from cloudq.clock import SYSTEM_CLOCK
from cloudq.errors import ServiceUnavailable
from cloudq.runtime import crew
from cloudq.runtime.heartbeat import Leases
from cloudq.testing.clock import ManualClock


class Queue:
    """A broker that only knows visibility: ``until`` by receipt."""

    def __init__(self, clock: ManualClock, ceiling: float = 43_200.0) -> None:
        self.capabilities = BrokerCapabilities(max_invisible=ceiling)
        self.clock = clock
        self.until: dict[str, float] = {}
        self.calls: list[int] = []
        self.down = False
        self.asked_past_ceiling = False
        self.received: dict[str, float] = {}

    def deliver(self, receipt: str, timeout: float) -> Delivery:
        now = self.clock.time()
        self.until[receipt], self.received[receipt] = now + timeout, now
        return Delivery("q", "m" + receipt, "{}", receipt, 1, now, now, now, now + timeout)

    def extend(self, deliveries: Sequence[Delivery], invisible: float) -> list[Refused]:
        if self.down:
            raise ServiceUnavailable("away")
        self.calls.append(len(deliveries))
        refused = []
        for each in deliveries:
            now = self.clock.time()
            if self.until.get(each.receipt, 0) <= now:
                refused.append(Refused(each, "gone", "no longer in flight", True))
                continue
            if now + invisible > self.received[each.receipt] + self.capabilities.max_invisible + 0.001:
                self.asked_past_ceiling = True
            self.until[each.receipt] = now + invisible
        return refused


def make(ceiling: float = 43_200.0) -> tuple[ManualClock, Queue, Leases, list[Delivery]]:
    clock = ManualClock()
    queue = Queue(clock, ceiling)
    lost: list[Delivery] = []
    return clock, queue, Leases(queue, clock, lost.append), lost  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(timeout=st.floats(1.0, 43_200.0), steps=st.integers(13, 200))
def test_a_held_message_never_becomes_visible(timeout: float, steps: int) -> None:
    """For every timeout SQS allows, looked at as often as the thread would."""
    clock, queue, leases, lost = make(ceiling=1e9)
    leases.add([queue.deliver("r", timeout)])
    for _ in range(steps):
        clock.advance(timeout / 12)
        leases.beat()
        assert queue.until["r"] > clock.time()

    assert lost == []
    assert len(queue.calls) <= steps / 12 * 4.5 + 2, "about three renewals per timeout, not more"


def test_messages_are_renewed_together() -> None:
    clock, queue, leases, _ = make()
    leases.add([queue.deliver(str(n), 30.0) for n in range(25)])
    clock.advance(10)
    leases.beat()

    assert sum(queue.calls) == 25
    assert len(queue.calls) == 1  # the broker makes batches of ten of it


def test_a_settled_message_is_left_alone() -> None:
    clock, queue, leases, _ = make()
    delivery = queue.deliver("r", 30.0)
    leases.add([delivery])
    assert leases.remove(delivery)
    clock.advance(10)
    leases.beat()

    assert queue.calls == []
    assert not leases.remove(delivery)


def test_the_ceiling_is_respected_and_then_the_lease_is_lost() -> None:
    clock, queue, leases, lost = make(ceiling=100.0)
    delivery = queue.deliver("r", 30.0)
    leases.add([delivery])
    for _ in range(45):
        clock.advance(2.0)
        leases.beat()
        assert leases.holds(delivery)
    assert not queue.asked_past_ceiling
    for _ in range(10):
        clock.advance(2.0)
        leases.beat()

    assert not leases.holds(delivery)
    assert lost == [delivery]
    assert leases.lost_count == 1


def test_a_refused_renewal_loses_the_lease_once() -> None:
    clock, queue, leases, lost = make()
    delivery = queue.deliver("r", 30.0)
    leases.add([delivery])
    queue.until["r"] = 0.0
    for _ in range(5):
        clock.advance(10)
        leases.beat()

    assert lost == [delivery]
    assert not leases.holds(delivery)
    assert not leases.remove(delivery)


def test_an_eased_lease_is_renewed_while_that_works_and_then_nothing_is_lost() -> None:
    """Early acknowledgement: the message is deleted, at some moment, while its task runs on."""
    clock, queue, leases, lost = make()
    delivery = queue.deliver("r", 30.0)
    leases.add([delivery])
    leases.ease(delivery)
    for _ in range(8):
        clock.advance(10)
        leases.beat()
    assert queue.until["r"] > clock.time()
    del queue.until["r"]
    for _ in range(8):
        clock.advance(10)
        leases.beat()

    assert lost == []
    assert leases.lost_count == 0
    assert leases.holds(delivery)
    calls = len(queue.calls)
    clock.advance(100)
    leases.beat()
    assert len(queue.calls) == calls
    assert leases.remove(delivery)


def test_an_absent_broker_is_asked_again_in_time() -> None:
    clock, queue, leases, lost = make()
    delivery = queue.deliver("r", 30.0)
    leases.add([delivery])
    queue.down = True
    for _ in range(10):
        clock.advance(2.0)
        leases.beat()
    assert leases.holds(delivery)
    queue.down = False
    clock.advance(2.5)
    leases.beat()

    assert queue.until["r"] > clock.time() + 20
    assert lost == []


def test_a_broker_that_stays_away_costs_the_lease() -> None:
    clock, queue, leases, lost = make()
    delivery = queue.deliver("r", 30.0)
    leases.add([delivery])
    queue.down = True
    clock.advance(31)
    assert not leases.holds(delivery)
    leases.beat()

    assert lost == [delivery]


@pytest.mark.parametrize("count", [1, 300])
def test_the_thread_renews_and_ends(count: int) -> None:
    from cloudq.brokers.base import Message
    from cloudq.brokers.sqlite import SqliteBroker

    broker = SqliteBroker(None, SYSTEM_CLOCK)
    broker.send("q", [Message(str(n)) for n in range(count)])
    held: list[Any] = []
    leases = Leases(broker, SYSTEM_CLOCK)
    leases.start()
    while got := broker.receive("q", 10, 0.0, 1.0):
        leases.add(got)
        held += got
    assert broker.receive("q", 10, 1.5, 1.0) == []  # half as long again as the timeout
    assert all(leases.holds(each) for each in held)
    leases.close()
    assert len(broker.receive("q", 10, 2.0, 1.0)) > 0


class Slow:
    """The renewal of the batch that holds the message ``stuck`` never comes back until ``go`` is set."""

    def __init__(self) -> None:
        self.capabilities = BrokerCapabilities()
        self.go = threading.Event()
        self.renewed: set[str] = set()
        self.stuck = 0

    def extend(self, deliveries: Sequence[Delivery], invisible: float) -> list[Refused]:
        assert len(deliveries) <= 10
        names = {each.receipt for each in deliveries}
        if "stuck" in names:
            self.stuck += 1
            self.go.wait(20)
        self.renewed |= names
        return []


def test_a_renewal_that_hangs_costs_no_other_batch() -> None:
    broker = Slow()
    lost: list[Delivery] = []
    leases = Leases(broker, SYSTEM_CLOCK, lost.append)  # type: ignore[arg-type]
    now = SYSTEM_CLOCK.time()
    names = ["stuck", *(str(n) for n in range(34))]
    held = [Delivery("q", name, "", name, 1, now, now, now, now + 1.0) for name in names]
    leases.add(held)
    leases.start()
    end = time.monotonic() + 2.5  # two and a half of their lives
    while time.monotonic() < end:
        time.sleep(0.05)
    others = [each for each in held if each.receipt in broker.renewed]
    assert len(others) >= 25
    assert all(leases.holds(each) for each in others)
    assert broker.stuck == 1  # it is not asked for again while the answer may still come
    assert {each.receipt for each in lost} == {each.receipt for each in held} - broker.renewed
    assert held[0] in lost
    broker.go.set()
    leases.close()


def test_a_crew_is_there_only_while_there_is_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "LINGER", 0.05)
    hands, done, gate = crew.Crew(3, "test-crew"), [], threading.Event()

    def job(number: int) -> None:
        gate.wait(10)
        done.append(number)
        if number == 5:
            raise ValueError("one that fails ends nothing")

    for number in range(20):
        hands.do(partial(job, number))

    def crowd() -> int:
        return sum(each.name == "test-crew" for each in threading.enumerate())

    assert crowd() == 3
    gate.set()
    end = time.monotonic() + 10
    while (len(done) < 20 or crowd()) and time.monotonic() < end:
        time.sleep(0.01)
    assert sorted(done) == list(range(20))
    assert crowd() == 0
    hands.do(lambda: done.append(99))
    while 99 not in done and time.monotonic() < end:
        time.sleep(0.01)
    assert 99 in done
