"""The chord join under everything that can go wrong at once, in a simulated fleet of workers.

Every store call is a step; between steps a seeded scheduler lets any other worker go on, so
the members interleave in every way, and the same seed gives the same run. A crash loses the worker's
state, and its message comes back, as SQS brings it back.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from random import Random

import msgspec
import pytest

from cloudq.backends.base import ResultBackend
from cloudq.backends.sqlite import SqliteBackend
from cloudq.clock import Clock
from cloudq.coordination import cas
from cloudq.coordination.join import Join
from cloudq.ids import derived_id
from cloudq.testing.stores import (
    ContentVersions,
    Counting,
    Crashing,
    Flaky,
    MemoryStore,
    SimulatedCrash,
    SlowNames,
    Wrapper,
)

CLOSE = -1


class Fleet:
    """Workers that take turns at every step; also the clock they live by."""

    TICK = 0.005

    def __init__(self, rng: Random, workers: int, switch: float) -> None:
        self._rng = rng
        self._switch = switch
        self._now = 1_000_000.0
        self._batons = [threading.Lock() for _ in range(workers)]
        for baton in self._batons:
            baton.acquire()
        self._wakes = [0.0] * workers
        self._running = list(range(workers))
        self._local = threading.local()
        self._errors: list[BaseException] = []

    # --- a Clock ---
    def time(self) -> float:
        return self._now

    monotonic = time

    def wait(self, condition: threading.Condition, timeout: float | None) -> bool:
        raise AssertionError("nobody waits on a condition here")

    def sleep(self, seconds: float) -> None:
        self._wakes[self._local.me] = self._now + seconds
        self.step()

    # --- turns ---
    def step(self) -> None:
        """Let somebody (perhaps the caller) go on."""
        me = getattr(self._local, "me", None)
        if me is None:  # the test itself, before or after the run
            return
        self._now += self.TICK
        stays = self._wakes[me] <= self._now and self._rng.random() >= self._switch
        chosen = me if stays else self._choose()
        if chosen != me:
            self._batons[chosen].release()
            self._batons[me].acquire()

    def _choose(self) -> int:
        for _ in range(8):
            chosen = self._running[int(self._rng.random() * len(self._running))]
            if self._wakes[chosen] <= self._now:
                return chosen
        chosen = min(self._running, key=self._wakes.__getitem__)
        self._now = max(self._now, self._wakes[chosen])
        return chosen

    def run(self, job: Callable[[int], None], deliveries: list[int]) -> None:
        """Deliver everything; what crashes is delivered again."""
        queue = deque(deliveries)
        threads = [
            threading.Thread(target=self._work, args=(me, job, queue)) for me in range(len(self._batons))
        ]
        for thread in threads:
            thread.start()
        self._batons[0].release()
        for thread in threads:
            thread.join()
        if self._errors:
            raise self._errors[0]

    def _work(self, me: int, job: Callable[[int], None], queue: deque[int]) -> None:
        self._batons[me].acquire()
        self._local.me = me
        try:
            while queue and not self._errors:
                delivery = queue.popleft()
                try:
                    job(delivery)
                except SimulatedCrash:
                    queue.append(delivery)
        except BaseException as error:
            self._errors.append(error)
        self._running.remove(me)
        if self._running:
            self._batons[self._choose()].release()


class Steps(Wrapper):
    """Before every call anybody else may go on; between two calls there is nothing to be seen."""

    def __init__(self, store: ResultBackend, fleet: Fleet) -> None:
        super().__init__(store)
        self._fleet = fleet

    def before(self, verb: str, key: str) -> None:
        self._fleet.step()


class CountingJoin:
    """What everybody writes first: count the members, the last one sends. Here to be caught."""

    def __init__(
        self, store: ResultBackend, join_id: str, size: int | None, clock: Clock, **_: object
    ) -> None:
        self._store, self._clock, self._size = store, clock, size

    def arrive(self, index: int) -> bool:
        def add(value: bytes | None) -> bytes:
            count = 0 if value is None else msgspec.json.decode(value)["count"]
            return msgspec.json.encode({"count": count + 1, "nonce": cas.nonce()})

        done = cas.update(self._store, "count/x", add, clock=self._clock, unique=True)
        assert done.entry is not None
        return msgspec.json.decode(done.entry.value)["count"] == self._size

    def close(self, size: int) -> bool:
        raise AssertionError("not in these runs")

    def fire(self, send: Callable[[], object]) -> bool:
        send()
        return True


class Run:
    """One group from the first delivery to the last, and what came of it."""

    def __init__(
        self,
        seed: int,
        size: int,
        *,
        fanout: int = 200,
        known: bool = True,
        crash: float = 0.2,
        trouble: float = 0.05,
        workers: int = 12,
        switch: float = 1.0,
        deliveries: int = 3,
        slow_names: bool = True,
        kind: str = "memory",
        join: Callable[..., Join | CountingJoin] = Join,
    ) -> None:
        rng = Random(seed)
        self.fleet = Fleet(rng, min(workers, max(2, size)), switch)
        inner = SqliteBackend(None, self.fleet) if kind == "sqlite" else MemoryStore(self.fleet)
        self.counted = Counting(inner)
        store: ResultBackend = ContentVersions(self.counted) if kind == "content-versions" else self.counted
        if slow_names:
            store = SlowNames(store, self.fleet)
        store = Flaky(store, rng, refused=trouble, lost=trouble)
        store = Steps(store, self.fleet)
        # A step is what lies between two calls: one place to die per call, before it or after it.
        store = Crashing(store, lambda moment, verb, key: rng.random() < crash / 2)
        self.size, self.fanout, self.known, self.rng = size, fanout, known, rng
        self.store, self.join = store, join
        self.arrived: set[int] = set()
        self.sends: list[str] = []
        self.early = 0
        queue = list(range(size)) * deliveries
        rng.shuffle(queue)
        if not known:
            # Most often among the last: that is where the size and the last arrivals race.
            for _ in range(deliveries):
                queue.insert(len(queue) - rng.choice([0, 1, 2, 3, len(queue)]), CLOSE)
        self.fleet.run(self._deliver, queue)
        inner.close()

    def _deliver(self, index: int) -> None:
        # The producer of a lazy group knows the size only once it has sent every member.
        size = self.size if self.known else None
        join = self.join(self.store, "g1", size, self.fleet, fanout=self.fanout, rand=self.rng.random)
        if index == CLOSE:
            complete = join.close(self.size)
        else:
            self.arrived.add(index)
            complete = join.arrive(index)
        if complete:
            join.fire(self._send)

    def _send(self) -> None:
        self.fleet.step()
        self.sends.append(derived_id("g1", "body"))
        self.early += len(self.arrived) < self.size

    def check(self) -> None:
        assert self.early == 0, "sent before everybody had arrived"
        assert self.sends, "never sent"
        assert len(set(self.sends)) == 1, "a repeated send is not recognised by its id"
        twice = {key: times for key, times in self.counted.written.items() if times > 1}
        assert not twice, f"names written more than once: {twice}"
        folders = Counter(key.rpartition("/")[0] for key in self.counted.written)
        assert max(folders.values()) <= max(self.fanout, 2), "a folder holds more than one page"


@pytest.mark.parametrize("known", [True, False], ids=["size-known", "size-told-late"])
@pytest.mark.parametrize("crash", [0.2, 0.01, 0.0])
def test_small_groups_of_every_shape_fire_never_early_and_always(known: bool, crash: float) -> None:
    for seed in range(25):
        shape = Random(seed)
        size, fanout = shape.randint(1, 30), shape.randint(2, 5)
        run = Run(seed, size, fanout=fanout, known=known, crash=crash, slow_names=seed % 2 == 0)
        try:
            run.check()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, {size} members, fanout {fanout}: {error}") from error


@pytest.mark.parametrize("known", [True, False], ids=["size-known", "size-told-late"])
def test_one_delivery_each_is_enough_when_nobody_crashes(known: bool) -> None:
    # Nothing comes back to repair a missed check here, so every missed duty shows.
    for seed in range(150):
        shape = Random(seed)
        size, fanout = shape.randint(1, 12), shape.randint(2, 4)
        run = Run(
            seed, size, fanout=fanout, known=known, crash=0.0, trouble=0.0, deliveries=1, slow_names=False
        )
        try:
            run.check()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, {size} members, fanout {fanout}: {error}") from error


@pytest.mark.parametrize("known", [True, False], ids=["size-known", "size-told-late"])
@pytest.mark.parametrize("kind", ["content-versions", "sqlite"])
def test_a_group_of_three_hundred_holds_on_other_stores(kind: str, known: bool) -> None:
    Run(7, 300, fanout=50, known=known, kind=kind).check()


@pytest.mark.slow
def test_ten_thousand_members_delivered_three_times_with_a_crash_at_every_fifth_step() -> None:
    Run(1, 10_000, switch=0.05).check()  # a change of threads at every step would take half a minute


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_hundred_thousand_members_need_three_levels_of_nothing_but_markers() -> None:
    run = Run(3, 100_000, crash=0.05, trouble=0.01, deliveries=1, switch=0.1)
    run.check()
    assert len([key for key in run.counted.written if key.startswith("join/g1/2-0/")]) == 3


def test_a_counter_is_caught_by_this_simulator() -> None:
    early = lost = 0
    for seed in range(40):
        run = Run(seed, 30, join=CountingJoin, slow_names=False)
        early += run.early > 0
        lost += not run.sends
    assert early > 0
    assert lost > 0
