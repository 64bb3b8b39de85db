"""The worker's parts, one by one: waiting, groups, disposal."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from cloudq import plugins
from cloudq.brokers.base import BrokerCapabilities, Delivery, Refused
from cloudq.clock import SYSTEM_CLOCK
from cloudq.errors import NoDeadLetterQueue, ServiceUnavailable, UnknownScheme
from cloudq.runtime.heartbeat import Leases
from cloudq.runtime.verdict import ABANDON, ACK, Ack, Bury, Release
from cloudq.worker.acks import CROWD
from cloudq.worker.cores import cores
from cloudq.worker.disposal import Disposal
from cloudq.worker.groups import Groups
from cloudq.worker.waiting import Waiting


def delivery(name: str, group: str | None = None, queue: str = "q") -> Delivery:
    now = time.time()
    return Delivery(queue, name, "{}", f"r-{name}", 1, now, now, now, now + 60, group)


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


def test_a_queue_that_does_not_answer_holds_up_no_other(parts: Any) -> None:
    broker, leases, disposal = parts
    go_on, plain = threading.Event(), broker.ack

    def ack(deliveries: Sequence[Delivery]) -> list[Refused]:
        if deliveries[0].queue == "deaf":
            assert go_on.wait(5)
        found: list[Refused] = plain(deliveries)
        return found

    broker.ack = ack
    deaf, other = delivery("1").with_(queue="deaf"), delivery("2")
    leases.add([deaf, other])
    disposal.apply(deaf, ACK)
    time.sleep(0.02)  # its acknowledgement is on the way
    disposal.apply(other, ACK)
    deadline = time.monotonic() + 30
    while not broker.acks and time.monotonic() < deadline:
        time.sleep(0.002)

    assert broker.acks == [["2"]]
    assert not disposal.flush(0.05)
    go_on.set()
    assert disposal.flush(5)
    assert disposal.acked == 2


def test_a_lone_acknowledgement_does_not_wait_long(parts: Any) -> None:
    broker, leases, disposal = parts
    one = delivery("1")
    leases.add([one])
    disposal.apply(one, ACK)
    deadline = time.monotonic() + 30
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


class Hanging(Fake):
    """The first acknowledgement gets no answer until ``go`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.hung = 0

    def ack(self, deliveries: Sequence[Delivery]) -> list[Refused]:
        self.hung += 1
        if self.hung == 1:
            self.go.wait(20)
        return super().ack(deliveries)


def test_an_acknowledgement_that_hangs_does_not_hold_up_the_others() -> None:
    broker = Hanging()
    leases = Leases(broker, SYSTEM_CLOCK)  # type: ignore[arg-type]
    disposal = Disposal(broker, leases)  # type: ignore[arg-type]
    disposal.start()
    held = [delivery(str(n)) for n in range(60)]
    leases.add(held)
    disposal.apply(held[0], ACK)
    eventually(lambda: broker.hung == 1)
    for each in held[1:]:
        disposal.apply(each, ACK)
    eventually(lambda: sum(len(each) for each in broker.acks) == 59)
    assert len(broker.acks) <= 12  # batches all the same
    assert not disposal.flush(0.05)
    broker.go.set()
    assert disposal.flush(5)
    assert disposal.acked == 60
    disposal.close()


def test_a_place_stays_taken_while_too_many_acknowledgements_wait() -> None:
    broker = Hanging()
    broker.fail = [ServiceUnavailable("away")] * 1000
    leases = Leases(broker, SYSTEM_CLOCK)  # type: ignore[arg-type]
    disposal = Disposal(broker, leases)  # type: ignore[arg-type]
    disposal.start()
    free: list[int] = []
    held = [delivery(str(n)) for n in range(CROWD + 30)]
    leases.add(held)
    for number, each in enumerate(held):
        disposal.apply(each, ACK, lambda number=number: free.append(number))  # type: ignore[misc]
    assert free == list(range(CROWD))
    broker.fail.clear()
    broker.go.set()
    assert disposal.flush(10)
    assert sorted(free) == list(range(CROWD + 30))
    disposal.close()


def eventually(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.002)


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


# --- cores -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "most"), [("100000 100000", 1), ("50000 100000", 1), ("nonsense", 10**6)])
def test_a_containers_limit_is_heeded(text: str, most: int, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text(text)

    assert 1 <= cores(str(tmp_path / "cpu.max")) <= most
    assert cores(str(tmp_path / "cpu.max")) <= cores(str(tmp_path / "none"))


# --- pools by name ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"), [("gevent", "use the pool threads"), ("processes", "called prefork")]
)
def test_a_pool_known_from_elsewhere_is_refused_with_what_to_use(name: str, words: str) -> None:
    with pytest.raises(UnknownScheme, match=words):
        plugins.load("pools", name)
