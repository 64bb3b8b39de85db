"""A source: polls of one queue, and what happens when one of them dies or hangs."""

import logging
import threading
import time
from collections.abc import Callable, Collection
from typing import Any

import pytest

from cloudq.brokers.base import BrokerCapabilities, Delivery
from cloudq.errors import ServiceUnavailable
from cloudq.worker.credit import Credit
from cloudq.worker.source import Source


def delivery(name: str) -> Delivery:
    now = time.time()
    return Delivery("q", name, "{}", f"r-{name}", 1, now, now, now, now + 60)


class Polled:
    """A broker whose receive() follows a script of results, errors and things to do, then waits."""

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
            if callable(found):
                found = found()
            return found[:limit]  # type: ignore[no-any-return]
        if wait:
            self.closed.wait(5)
        return []


class Intake:
    """A source at work; what it brought."""

    def __init__(self, broker: Polled, places: int = 5, **options: Any) -> None:
        self.broker = broker
        self.credit = Credit(places)
        self.got: list[str] = []
        self.source = Source(
            broker,  # type: ignore[arg-type]
            "q",
            self.credit.lane(),
            lambda found: self.got.extend(each.message_id for each in found),
            wait=20.0,
            invisible=30.0,
            **options,
        )

    def until(self, check: Callable[[], bool], supervise: bool = False) -> None:
        deadline = time.monotonic() + 30
        while not check():
            assert time.monotonic() < deadline, (self.got, self.broker.asked)
            if supervise:
                self.source.supervise()
            time.sleep(0.005)

    def __enter__(self) -> "Intake":
        self.source.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.source.stop()
        self.credit.close()
        self.broker.closed.set()
        assert self.source.join(5)


def test_a_poll_asks_for_what_is_free() -> None:
    broker = Polled([[delivery("1"), delivery("2")], [delivery("3")]])
    with Intake(broker, 3) as intake:
        intake.until(lambda: len(intake.got) == 3)

    assert intake.got == ["1", "2", "3"]
    assert broker.asked[0] == (3, 20.0)
    assert broker.asked[1][0] == 1


def test_no_poll_without_credit() -> None:
    broker = Polled([[delivery(str(n)) for n in range(10)], [delivery("late")]])
    with Intake(broker, 10) as intake:
        intake.until(lambda: len(intake.got) == 10 and intake.source.lane.hungry == 1)
        assert len(broker.asked) == 1
        intake.source.lane.give()
        intake.until(lambda: len(intake.got) == 11)


def test_errors_are_waited_out() -> None:
    seen = threading.Event()

    def found() -> list[Delivery]:
        seen.wait(30)
        return [delivery("1")]

    with Intake(Polled([ServiceUnavailable("away"), found])) as intake:
        intake.until(lambda: intake.source.last_error is not None)
        seen.set()
        intake.until(lambda: intake.got == ["1"])
        assert intake.source.last_error is None


def test_an_error_nobody_foresaw_is_logged_with_its_trace_and_waited_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with (
        caplog.at_level(logging.ERROR, "cloudq.worker"),
        Intake(Polled([KeyError("MessageId"), [delivery("1")]])) as intake,
    ):
        intake.until(lambda: intake.got == ["1"])
        assert intake.source.replaced == 0

    assert "KeyError: 'MessageId'" in caplog.text
    assert "Traceback" in caplog.text


def test_a_deep_queue_gets_more_polls_than_one() -> None:
    broker = Polled([[delivery(f"{n}-{m}") for m in range(10)] for n in range(20)])
    with Intake(broker, 1000) as intake:
        intake.until(lambda: len(intake.got) == 200)

    assert any(wait == 0.0 for _, wait in broker.asked)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_poll_that_died_is_replaced_and_said_so(caplog: pytest.LogCaptureFixture) -> None:
    with Intake(Polled([SystemExit(1), [delivery("1")]])) as intake:
        intake.until(lambda: intake.got == ["1"], supervise=True)
        assert intake.source.replaced == 1

    assert "poll 1 of queue q has died; another takes its place" in caplog.text


def test_a_poll_that_hangs_is_replaced_and_what_it_brings_late_is_not_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hung, free = threading.Event(), threading.Event()

    def hang() -> list[Delivery]:
        hung.set()
        free.wait(10)
        return [delivery("late")]

    with Intake(Polled([hang, [delivery("1")]]), stuck_after=-20.0) as intake:
        assert hung.wait(5)
        intake.source.supervise()
        intake.until(lambda: intake.got == ["1"])
        free.set()
        intake.until(lambda: intake.got == ["1", "late"])
        assert intake.credit.held == 2

    assert "poll 1 of queue q hangs; another takes its place" in caplog.text


def test_a_hung_poll_keeps_no_places(caplog: pytest.LogCaptureFixture) -> None:
    hung, free = threading.Event(), threading.Event()

    def hang() -> list[Delivery]:
        hung.set()
        free.wait(60)
        return []

    broker = Polled([hang, [delivery(str(n)) for n in range(5)]])
    intake = Intake(broker, stuck_after=-20.0)
    intake.source.lane._most = 5
    with intake:
        assert hung.wait(5)
        intake.source.supervise()
        intake.until(lambda: len(intake.got) == 5)
        free.set()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_helpers_are_watched_too() -> None:
    ten = [delivery(str(n)) for n in range(10)]
    with Intake(Polled([ten, ten, SystemExit(1), SystemExit(1), ten, ten]), 1000) as intake:
        intake.until(lambda: len(intake.got) >= 40, supervise=True)
        intake.until(lambda: intake.source.replaced == 2, supervise=True)


class Endable(Polled):
    """One whose polls can be cut short; they bring what there is."""

    def __init__(self, brings: list[Delivery]) -> None:
        super().__init__([])
        self.brings = brings
        self.waiting = threading.Event()
        self.ended: list[int] = []

    def receive(self, queue: str, limit: int, wait: float, invisible: float) -> list[Delivery]:
        self.waiting.set()
        assert self.closed.wait(20)
        return self.brings

    def interrupt(self, threads: Collection[int]) -> None:
        self.ended += threads
        self.closed.set()


def test_a_poll_in_flight_can_be_cut_short_and_what_it_brings_is_handed_on() -> None:
    broker = Endable([delivery("last")])
    intake = Intake(broker)
    intake.source.start()
    assert broker.waiting.wait(10)
    intake.source.stop()
    intake.credit.close()
    assert not intake.source.join(0.05)
    intake.source.interrupt()

    assert intake.source.join(10)
    assert intake.got == ["last"]
    assert set(broker.ended) == {each.thread.ident for each in intake.source._pollers}


def test_a_poll_that_is_about_to_begin_is_not_taken_for_a_dead_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from cloudq.worker import source as module

    began = threading.Event()
    start = module._Poller.start

    def slowly(self: module._Poller) -> None:
        began.set()
        time.sleep(0.02)
        start(self)

    monkeypatch.setattr(module._Poller, "start", slowly)
    intake = Intake(Polled([]))
    supervisor = threading.Thread(target=lambda: began.wait(10) and intake.source.supervise())
    supervisor.start()
    with intake:
        supervisor.join(10)
    assert intake.source.replaced == 0
    assert "has died" not in caplog.text
