"""Sends of several threads at once: what waits goes out together, each caller gets its own outcome."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from cloudq.brokers.base import BrokerCapabilities, Message
from cloudq.brokers.joined import JoinedSends
from cloudq.errors import MessageTooLarge, SendError, ServiceUnavailable

PATIENCE = 60.0


class Gate:
    """A broker whose calls wait until they are let through, and do then what the test wants."""

    capabilities = BrokerCapabilities(max_body=1000)

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.arrived = threading.Semaphore(0)
        self.let = threading.Semaphore(0)
        self.then: Callable[[list[str]], list[str]] = lambda bodies: [f"id-{body}" for body in bodies]

    def send(self, queue: str, messages: Sequence[Message]) -> list[str]:
        bodies = [each.body for each in messages]
        self.calls.append(bodies)
        self.arrived.release()
        assert self.let.acquire(timeout=PATIENCE)
        return self.then(bodies)


class Callers:
    """Threads that send one message each."""

    def __init__(self, sends: JoinedSends) -> None:
        self._sends = sends
        self._threads: list[threading.Thread] = []
        self.outcomes: dict[str, Any] = {}

    def call(self, body: str, queue: str = "q") -> None:
        def run() -> None:
            try:
                self.outcomes[body] = self._sends.send(queue, Message(body))
            except BaseException as error:
                self.outcomes[body] = error

        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()

    def queued(self, count: int, queue: str = "q") -> None:
        """Wait until so many letters wait."""
        deadline = time.monotonic() + PATIENCE
        while self._sends.waiting(queue) < count:
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def join(self) -> None:
        for each in self._threads:
            each.join(PATIENCE)
            assert not each.is_alive()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    for _ in range(100):
        gate.let.release()


@pytest.fixture
def callers(gate: Gate) -> Callers:
    return Callers(JoinedSends(lambda: gate))  # type: ignore[arg-type,return-value]


def crowd(gate: Gate, callers: Callers, bodies: Sequence[str]) -> None:
    """One call is under way, and these wait behind it, in this order."""
    callers.call("first")
    assert gate.arrived.acquire(timeout=PATIENCE)
    for n, body in enumerate(bodies, 1):
        callers.call(body)
        callers.queued(n)


def let(gate: Gate, calls: int) -> None:
    for _ in range(calls):
        gate.let.release()


def test_who_is_alone_is_sent_alone_and_at_once(gate: Gate, callers: Callers) -> None:
    let(gate, 2)
    for body in ("a", "b"):
        callers.call(body)
        callers.join()
    assert gate.calls == [["a"], ["b"]]
    assert callers.outcomes == {"a": "id-a", "b": "id-b"}


def test_what_comes_during_a_call_goes_out_with_the_next_in_its_order(gate: Gate, callers: Callers) -> None:
    crowd(gate, callers, ["a", "b", "c"])
    let(gate, 2)
    callers.join()
    assert gate.calls == [["first"], ["a", "b", "c"]]
    assert callers.outcomes == {each: f"id-{each}" for each in ("first", "a", "b", "c")}


def test_a_call_takes_ten_messages_and_no_more_bytes_than_the_queue_does(
    gate: Gate, callers: Callers
) -> None:
    crowd(gate, callers, [str(n) for n in range(11)] + ["x" * 600, "y" * 600])
    let(gate, 5)
    callers.join()
    assert [len(each) for each in gate.calls] == [1, 10, 2, 1]
    assert gate.calls[1] == [str(n) for n in range(10)]


def test_queues_do_not_wait_for_each_other(gate: Gate, callers: Callers) -> None:
    callers.call("a", "one")
    assert gate.arrived.acquire(timeout=PATIENCE)
    callers.call("b", "two")
    assert gate.arrived.acquire(timeout=PATIENCE)
    let(gate, 2)
    callers.join()
    assert sorted(gate.calls) == [["a"], ["b"]]


def test_a_refused_entry_is_its_own_callers_error(gate: Gate, callers: Callers) -> None:
    bad = ServiceUnavailable("b is refused")

    def partly(bodies: list[str]) -> list[str]:
        if "b" not in bodies:
            return [f"id-{body}" for body in bodies]
        sent = {n: f"id-{body}" for n, body in enumerate(bodies) if body != "b"}
        raise SendError({bodies.index("b"): bad}, sent)

    gate.then = partly
    crowd(gate, callers, ["a", "b", "c"])
    let(gate, 2)
    callers.join()
    assert callers.outcomes == {"first": "id-first", "a": "id-a", "b": bad, "c": "id-c"}


def test_a_message_that_cannot_be_sent_keeps_no_other_back(gate: Gate, callers: Callers) -> None:
    def strict(bodies: list[str]) -> list[str]:
        if "b" in bodies:
            raise MessageTooLarge("b is too large")
        return [f"id-{body}" for body in bodies]

    gate.then = strict
    crowd(gate, callers, ["a", "b"])
    let(gate, 4)
    callers.join()
    assert callers.outcomes.pop("b").args == ("b is too large",)
    assert callers.outcomes == {"first": "id-first", "a": "id-a"}


def test_an_outage_is_everybodys_error(gate: Gate, callers: Callers) -> None:
    def away(bodies: list[str]) -> list[str]:
        raise ServiceUnavailable("away")

    gate.then = away
    crowd(gate, callers, ["a", "b"])
    let(gate, 2)
    callers.join()
    assert {str(each) for each in callers.outcomes.values()} == {"away"}


def test_one_who_is_interrupted_while_sending_leaves_nobody_waiting(gate: Gate, callers: Callers) -> None:
    def strike(bodies: list[str]) -> list[str]:
        gate.then = lambda bodies: [f"id-{body}" for body in bodies]
        raise KeyboardInterrupt

    crowd(gate, callers, ["a", "b"])
    gate.let.release()  # the first is through: a or b sends for both
    assert gate.arrived.acquire(timeout=PATIENCE)
    gate.then = strike
    callers.call("later")
    callers.queued(1)
    let(gate, 2)
    callers.join()
    struck, other = sorted((callers.outcomes["a"], callers.outcomes["b"]), key=lambda each: str(each))
    assert isinstance(struck, KeyboardInterrupt)
    assert "may have been sent" in str(other)
    assert callers.outcomes["later"] == "id-later"


def test_a_lone_caller_makes_nothing_anew(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    joint = JoinedSends._joint

    def count(self: JoinedSends, queue: str) -> Any:
        made.append(queue)
        return joint(self, queue)

    monkeypatch.setattr(JoinedSends, "_joint", count)
    sends = JoinedSends(lambda: gate)  # type: ignore[arg-type,return-value]
    let(gate, 3)
    for _ in range(3):
        sends.send("q", Message("a"))
    assert made == ["q"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_does_not_wait_for_a_thread_of_its_parent() -> None:
    gate = Gate()
    sends = JoinedSends(lambda: gate)  # type: ignore[arg-type,return-value]
    callers = Callers(sends)
    callers.call("a")
    assert gate.arrived.acquire(timeout=PATIENCE)  # the parent's call is under way
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        gate.let = threading.Semaphore(1)
        os._exit(0 if sends.send("q", Message("b")) == "id-b" else 1)
    _, status = os.waitpid(child, 0)
    gate.let.release()
    assert (os.waitstatus_to_exitcode(status), gate.calls) == (0, [["a"]])


def test_a_message_that_was_lost_with_the_thread_that_took_it_is_told() -> None:
    gate = Gate()
    sends = JoinedSends(lambda: gate)  # type: ignore[arg-type,return-value]
    callers = Callers(sends)
    callers.call("a")
    assert gate.arrived.acquire(timeout=PATIENCE)
    callers.call("b")
    callers.queued(1)
    sends._queues["q"]._letters.clear()  # as if it was struck down between taking and sending
    gate.let.release()
    for each in callers._threads:
        each.join(PATIENCE)
    assert callers.outcomes["a"] == "id-a"
    assert isinstance(callers.outcomes["b"], ServiceUnavailable)
