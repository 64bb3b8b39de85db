"""Members that end a chord together in one worker: its body is sent once, and nobody's message goes before it is.

Each thread is a member's run that has found everybody there; the one that sends dies at every step of it.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Hashable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import pytest

from cloudq import states
from cloudq.coordination.join import Join
from cloudq.message import Envelope, GroupRef
from cloudq.results.record import Record
from cloudq.runtime.follow import Follower
from cloudq.shared import Shared
from cloudq.testing.clock import ManualClock
from cloudq.testing.stores import Crashing, MemoryStore, SimulatedCrash

SIZE = 8
#: Where the sender may die: calls of the store, and the sending itself.
PLACES = (
    "before send",
    "after send",
    "before read fired",
    "after read fired",
    "before write fired",
    "after write fired",
)


class Gathering(Shared):
    """Counts who has come to the end of the join."""

    def __init__(self, patience: float) -> None:
        super().__init__(patience)
        self.came = threading.Semaphore(0)

    def do(self, name: Hashable, work: Callable[[], object]) -> bool:
        self.came.release()
        return super().do(name, work)


class Worker:
    """A process with a thread for each member. ``die`` is asked at every place whether to die there."""

    def __init__(self, die: Callable[[str], bool], shared: Shared | None) -> None:
        self.clock = ManualClock()
        self.memory = MemoryStore(self.clock)
        self.die = die
        self.sent: list[str] = []
        self.follower = Follower(self, None, shared)  # type: ignore[arg-type]
        self.hold: Callable[[], object] = lambda: None
        for index in range(SIZE):  # an earlier delivery of each has marked its arrival and was cut short
            Join(self.memory, "g", SIZE, self.clock).arrive(index)

    # --- the launcher that the follower has ---
    def send(self, calls: Iterable[Any]) -> None:
        assert not list(calls)

    def join(self, group_id: str, size: int | None) -> Join:
        def dies(moment: str, verb: str, key: str) -> bool:
            return key.endswith("/fired") and self.die(f"{moment} {verb} fired")

        return Join(Crashing(self.memory, dies), group_id, size, self.clock)

    def fire(self, chord: Mapping[str, Any], joined: Mapping[str, Any], setting: Any) -> None:
        self.hold()
        if self.die("before send"):
            raise SimulatedCrash("before the send")
        self.sent.append(joined["id"])
        if self.die("after send"):
            raise SimulatedCrash("after the send")

    # --- its members ---
    def member(self, index: int, *, again: bool = False) -> str:
        """ "acknowledged" or "died"; never acknowledged before the body is out."""
        envelope = Envelope("m", f"m{index}", group=GroupRef("g", index, SIZE), chord={"task": "body"})
        record = Record(envelope.id, states.SUCCESS, 1, done_at=1.0)
        try:
            self.follower.follow(envelope, record, again=again, stored=True)
        except SimulatedCrash:
            return "died"
        assert self.sent, f"member {index} is acknowledged, and nobody has sent the body"
        return "acknowledged"

    def together(self) -> list[str]:
        with ThreadPoolExecutor(SIZE) as pool:
            return [each.result(60) for each in [pool.submit(self.member, index) for index in range(SIZE)]]


def once_at(place: str, times: int) -> Callable[[str], bool]:
    left, lock = [times], threading.Lock()

    def die(here: str) -> bool:
        with lock:
            if here != place or left[0] == 0:
                return False
            left[0] -= 1
            return True

    return die


def never(place: str) -> bool:
    return False


def test_members_that_end_together_send_the_body_once() -> None:
    shared = Gathering(60.0)
    worker = Worker(never, shared)

    def hold() -> None:
        for _ in range(SIZE):  # all of them are here before it is sent
            assert shared.came.acquire(timeout=60)

    worker.hold = hold
    assert worker.together() == ["acknowledged"] * SIZE
    assert worker.sent == ["g"]
    assert len(shared) == 0


@pytest.mark.parametrize("alone", [False, True], ids=["shared", "each for himself"])
@pytest.mark.parametrize("deaths", [1, 3, SIZE])
@pytest.mark.parametrize("place", PLACES)
def test_a_sender_that_dies_is_followed_by_the_next(place: str, deaths: int, alone: bool) -> None:
    worker = Worker(once_at(place, deaths), None if alone else Shared(60.0))
    found = worker.together()
    assert found.count("died") <= deaths
    for index, end in enumerate(found):
        if end == "died":  # its message comes again
            while worker.member(index, again=True) == "died":
                pass
    assert set(worker.sent) == {"g"}
    assert Join(worker.memory, "g", SIZE, worker.clock).fired()


def test_a_sender_that_hangs_holds_up_nobody_for_good() -> None:
    worker = Worker(never, Shared(0.02))
    release, first = threading.Event(), threading.Lock()
    worker.hold = lambda: release.wait(60) if first.acquire(blocking=False) else None
    with ThreadPoolExecutor(SIZE) as pool:
        ends = [pool.submit(worker.member, index) for index in range(SIZE)]
        try:
            others = list(itertools.islice(as_completed(ends, timeout=60), SIZE - 1))
        finally:
            release.set()
    assert [each.result() for each in others] == ["acknowledged"] * (SIZE - 1)
    assert set(worker.sent) == {"g"}


def test_a_member_that_comes_again_leaves_it_to_nobody_who_comes_first() -> None:
    """What it sends says that it may have been sent before; what the others send does not."""
    names: list[object] = []

    class Noting(Shared):
        def do(self, name: Hashable, work: Callable[[], object]) -> bool:
            names.append(name)
            return super().do(name, work)

    worker = Worker(never, Noting())
    assert worker.member(0) == worker.member(1, again=True) == "acknowledged"
    assert len(set(names)) == 2
