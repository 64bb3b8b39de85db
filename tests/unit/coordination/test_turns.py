"""Who finishes together sends once; and whoever hangs holds nobody up for good."""

from __future__ import annotations

import threading
import time

import pytest

from cloudq.clock import SYSTEM_CLOCK
from cloudq.coordination import turns
from cloudq.coordination.join import Join
from cloudq.coordination.turns import turn
from cloudq.testing.stores import MemoryStore


def test_members_that_end_together_send_what_follows_once() -> None:
    store = MemoryStore(SYSTEM_CLOCK)
    sent: list[int] = []
    together = threading.Barrier(8)

    def send() -> None:
        time.sleep(0.05)  # the others come meanwhile
        sent.append(1)

    def end(index: int) -> None:
        join = Join(store, "j", 8, SYSTEM_CLOCK)
        assert join.arrive(index) in (True, False)
        together.wait(10)
        if join.complete():
            join.fire(send)

    threads = [threading.Thread(target=end, args=(index,)) for index in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)
    assert sent == [1]


def test_a_send_that_failed_is_the_next_ones_to_make() -> None:
    join = Join(MemoryStore(SYSTEM_CLOCK), "j", 1, SYSTEM_CLOCK)
    sent: list[int] = []
    assert join.arrive(0)
    with pytest.raises(ConnectionError):
        join.fire(lambda: (_ for _ in ()).throw(ConnectionError()))
    assert join.fire(lambda: sent.append(1))
    assert sent == [1]


def test_turns_of_different_names_may_be_held_within_each_other() -> None:
    with turn("a"), turn("b"):
        assert set(turns._turns) >= {"a", "b"}
    assert not {"a", "b"} & set(turns._turns)


def test_nobody_waits_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "PATIENCE", 0.05)
    inside, leave = threading.Event(), threading.Event()

    def hang() -> None:
        with turn("stuck"):
            inside.set()
            leave.wait(30)

    hanging = threading.Thread(target=hang)
    hanging.start()
    assert inside.wait(10)
    with turn("stuck"):
        assert hanging.is_alive()
    leave.set()
    hanging.join(10)
    with turn("stuck"):
        pass
    assert "stuck" not in turns._turns
