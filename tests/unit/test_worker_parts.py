"""The worker's parts, one by one: credit, groups, disposal, sources."""

import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from cloudq.brokers.base import BrokerCapabilities, Delivery, Refused
from cloudq.clock import SYSTEM_CLOCK
from cloudq.errors import NoDeadLetterQueue, ServiceUnavailable
from cloudq.runtime.heartbeat import Leases
from cloudq.runtime.verdict import ABANDON, ACK, Ack, Bury, Release
from cloudq.worker.credit import Credit
from cloudq.worker.disposal import Disposal
from cloudq.worker.groups import Groups
from cloudq.worker.source import Source
from cloudq.worker.waiting import Waiting


def delivery(name: str, group: str | None = None, queue: str = "q") -> Delivery:
    now = time.time()
    return Delivery(queue, name, "{}", f"r-{name}", 1, now, now, now, now + 60, group)


# --- credit ----------------------------------------------------------------------------------------


def test_credit_is_what_is_free() -> None:
    credit = Credit(3)
    assert credit.wait(0) == 3
    credit.take(5)
    assert credit.wait(0) == 0
    credit.give(3)
    assert credit.wait(0) == 1


def test_a_waiter_is_woken_by_a_free_place_and_by_the_end() -> None:
    credit = Credit(1)
    credit.take(1)
    got: list[int] = []
    waiter = threading.Thread(target=lambda: got.extend([credit.wait(10), credit.wait(10)]))
    waiter.start()
    credit.give()
    while not got and waiter.is_alive():
        credit.take(0)
    credit.close()
    waiter.join(5)

    assert got[0] in (0, 1)
    assert not waiter.is_alive()
    assert credit.wait(0) == 0


# --- waiting ---------------------------------------------------------------------------------------


def test_what_waits_is_resumed_in_the_order_of_its_time() -> None:
    resumed: list[str] = []
    done = threading.Event()

    def resume(each: Delivery) -> None:
        resumed.append(each.message_id)
        if len(resumed) == 2:
            done.set()

    waiting = Waiting(resume)
    assert waiting.add(delivery("second"), 0.02)
    assert waiting.add(delivery("first"), 0.0)
    assert done.wait(10)
    waiting.close()

    assert resumed == ["first", "second"]


def test_a_wait_that_ends_early_resumes_all_and_takes_no_more() -> None:
    resumed: list[str] = []
    waiting = Waiting(lambda each: resumed.append(each.message_id))
    assert not waiting.add(delivery("too long"), 7 * 3600)
    assert waiting.add(delivery("b"), 200)
    assert waiting.add(delivery("a"), 100)
    waiting.close()

    assert resumed == ["a", "b"]
    assert not waiting.add(delivery("late"), 1)


def test_no_more_wait_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloudq.worker.waiting.MOST", 2)
    waiting = Waiting(lambda each: None)
    assert [waiting.add(delivery(str(n)), 100) for n in range(3)] == [True, True, False]
    assert len(waiting) == 2
    waiting.close()


# --- groups ----------------------------------------------------------------------------------------


def test_one_message_of_a_group_at_a_time() -> None:
    groups = Groups()
    a1, a2, a3, b1 = (delivery(n, n[0], "q.fifo") for n in ("a1", "a2", "a3", "b1"))

    assert [groups.admit(each) for each in (a1, a2, a3, b1)] == [True, False, False, True]
    assert groups.done(a1, True) == (a2, [])
    assert groups.done(a2, True) == (a3, [])
    assert groups.done(a3, True) == (None, [])
    assert groups.admit(a1)


def test_nothing_overtakes_a_message_that_goes_back() -> None:
    groups = Groups()
    a1, a2, a3 = (delivery(n, "a", "q.fifo") for n in ("a1", "a2", "a3"))
    for each in (a1, a2, a3):
        groups.admit(each)

    assert groups.done(a1, False) == (None, [a2, a3])
    assert groups.admit(a1)


def test_groups_of_standard_queues_do_not_order() -> None:
    groups = Groups()

    assert groups.admit(delivery("1", "tenant"))
    assert groups.admit(delivery("2", "tenant"))


# --- disposal --------------------------------------------------------------------------------------


class Fake:
    """A broker that notes what it is asked; ``fail`` is raised by the next calls."""

    def __init__(self) -> None:
        self.capabilities = BrokerCapabilities()
        self.acks: list[list[str]] = []
        self.releases: list[tuple[float, list[str]]] = []
        self.buried: list[tuple[str, str]] = []
        self.fail: list[Exception] = []
        self.refuse: dict[str, bool] = {}

    def _maybe_fail(self) -> None:
        if self.fail:
            raise self.fail.pop(0)

    def _refused(self, deliveries: Sequence[Delivery]) -> list[Refused]:
        return [
            Refused(each, "x", "refused", self.refuse.pop(each.message_id))
            for each in deliveries
            if each.message_id in self.refuse
        ]

    def ack(self, deliveries: Sequence[Delivery]) -> list[Refused]:
        self._maybe_fail()
        self.acks.append([each.message_id for each in deliveries])
        return self._refused(deliveries)

    def release(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> list[Refused]:
        self._maybe_fail()
        self.releases.append((delay, [each.message_id for each in deliveries]))
        return self._refused(deliveries)

    def bury(self, one: Delivery, reason: str, detail: str = "") -> None:
        self._maybe_fail()
        self.buried.append((one.message_id, reason))

    def extend(self, deliveries: Sequence[Delivery], invisible: float) -> list[Refused]:
        return []


@pytest.fixture
def parts() -> Any:
    broker = Fake()
    leases = Leases(broker, SYSTEM_CLOCK)  # type: ignore[arg-type]
    disposal = Disposal(broker, leases)  # type: ignore[arg-type]
    disposal.start()
    yield broker, leases, disposal
    disposal.close()


def test_acknowledgements_go_out_ten_by_ten(parts: Any) -> None:
    broker, leases, disposal = parts
    all_of_them = [delivery(str(n)) for n in range(10)]
    leases.add(all_of_them)
    for each in all_of_them:
        disposal.apply(each, ACK)

    assert disposal.flush(5)
    assert sum(len(each) for each in broker.acks) == 10
    assert len(broker.acks) <= 3
    assert len(leases) == 0


def test_a_lone_acknowledgement_does_not_wait_long(parts: Any) -> None:
    broker, leases, disposal = parts
    one = delivery("1")
    leases.add([one])
    disposal.apply(one, ACK)
    deadline = time.monotonic() + 2
    while not broker.acks and time.monotonic() < deadline:
        time.sleep(0.002)

    assert broker.acks == [["1"]]


def test_an_absent_broker_gets_the_acknowledgement_later_and_the_lease_is_kept(parts: Any) -> None:
    broker, leases, disposal = parts
    one = delivery("1")
    leases.add([one])
    broker.fail = [ServiceUnavailable("away")]
    disposal.apply(one, ACK)
    while broker.fail:
        time.sleep(0.002)
    assert leases.holds(one)
    assert disposal.flush(5)

    assert broker.acks == [["1"]]
    assert disposal.acked == 1


def test_entries_refused_for_now_are_sent_again_and_lost_ones_are_not(parts: Any) -> None:
    broker, leases, disposal = parts
    two = [delivery("again"), delivery("lost")]
    leases.add(two)
    broker.refuse = {"again": False, "lost": True}
    for each in two:
        disposal.apply(each, ACK)
    assert disposal.flush(5)

    assert [name for batch in broker.acks for name in batch].count("again") == 2
    assert [name for batch in broker.acks for name in batch].count("lost") == 1
    assert disposal.acked == 1


def test_the_other_verdicts(parts: Any) -> None:
    broker, leases, disposal = parts
    names = ("back", "soon", "dead", "gone", "early")
    held = {name: delivery(name) for name in names}
    leases.add(held.values())
    disposal.apply(held["back"], Release(0.0))
    disposal.apply(held["soon"], Release(99_999.0))
    disposal.apply(held["dead"], Bury("why", "because"))
    disposal.apply(held["gone"], ABANDON)
    disposal.apply(held["early"], Ack(already=True))
    assert disposal.flush(5)

    assert sorted(broker.releases) == [(0.0, ["back"]), (43_200.0, ["soon"])]
    assert broker.buried == [("dead", "why")]
    assert broker.acks == []
    assert len(leases) == 0


def test_what_nobody_buries_is_left_alone_for_long(parts: Any) -> None:
    broker, leases, disposal = parts
    one = delivery("1")
    leases.add([one])
    broker.fail = [NoDeadLetterQueue("none")]
    disposal.apply(one, Bury("why"))
    assert disposal.flush(5)

    assert broker.releases == [(900.0, ["1"])]


def test_an_unforeseen_error_does_not_end_the_worker(parts: Any) -> None:
    broker, leases, disposal = parts
    one, two = delivery("1"), delivery("2")
    leases.add([one, two])
    broker.fail = [RuntimeError("bug")]
    disposal.apply(one, ACK)
    while broker.fail:
        time.sleep(0.002)
    disposal.apply(two, ACK)
    assert disposal.flush(5)

    assert ["2"] in broker.acks


# --- sources ---------------------------------------------------------------------------------------


class Polled:
    """A broker whose receive() follows a script of results and errors, then waits."""

    def __init__(self, script: list[Any]) -> None:
        self.capabilities = BrokerCapabilities()
        self.script = script
        self.asked: list[tuple[int, float]] = []
        self.closed = threading.Event()

    def receive(self, queue: str, limit: int, wait: float, invisible: float) -> list[Delivery]:
        self.asked.append((limit, wait))
        if self.script:
            found = self.script.pop(0)
            if isinstance(found, BaseException):
                raise found
            return found[:limit]  # type: ignore[no-any-return]
        if wait:
            self.closed.wait(5)
        return []


def consume(broker: Polled, credit: Credit, until: int, share: int = 1) -> list[Delivery]:
    got: list[Delivery] = []
    enough = threading.Event()

    def deliver(found: list[Delivery]) -> None:
        got.extend(found)
        if len(got) >= until:
            enough.set()

    source = Source(broker, "q", credit, deliver, wait=20.0, invisible=30.0, share=share)  # type: ignore[arg-type]
    source.start()
    assert enough.wait(10)
    source.stop()
    credit.close()
    broker.closed.set()
    assert source.join(5)
    return got


def test_a_poll_asks_for_what_is_free() -> None:
    broker = Polled([[delivery("1"), delivery("2")], [delivery("3")]])
    got = consume(broker, Credit(3), 3)

    assert [each.message_id for each in got] == ["1", "2", "3"]
    assert broker.asked[0] == (3, 20.0)
    assert broker.asked[1][0] == 1


def test_no_poll_without_credit() -> None:
    broker = Polled([[delivery(str(n)) for n in range(10)], [delivery("late")]])
    credit = Credit(10)
    threading.Timer(0.2, lambda: credit.give(1)).start()
    got = consume(broker, credit, 11)

    assert got[-1].message_id == "late"


def test_errors_are_waited_out() -> None:
    broker = Polled([ServiceUnavailable("away"), [delivery("1")]])

    assert len(consume(broker, Credit(5), 1)) == 1


def test_a_deep_queue_gets_more_polls_than_one() -> None:
    broker = Polled([[delivery(f"{n}-{m}") for m in range(10)] for n in range(20)])
    consume(broker, Credit(1000), 200)

    assert any(wait == 0.0 for _, wait in broker.asked)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_poll_that_died_is_replaced() -> None:
    broker = Polled([RuntimeError("a bug nobody foresaw"), [delivery("1")]])
    got: list[Delivery] = []
    source = Source(broker, "q", Credit(5), got.extend, wait=20.0, invisible=30.0)  # type: ignore[arg-type]
    source.start()
    deadline = time.monotonic() + 10
    while not got and time.monotonic() < deadline:
        source.supervise()
        time.sleep(0.01)
    source.stop()
    broker.closed.set()

    assert len(got) == 1
