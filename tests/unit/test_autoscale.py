"""Autoscaling: when a worker grows and when it shrinks, on a clock that stands still."""

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from cloudq.errors import ImproperlyConfigured
from cloudq.hooks import Hooks
from cloudq.worker.autoscale import Autoscaler, parse


class Scene:
    """As much of a worker as the autoscaler sees."""

    def __init__(self, size: int) -> None:
        self.now = 0.0
        #: What its queues hold for it; None: they cannot be asked.
        self.left: float | None = None
        self.asked = 0
        self.lane = SimpleNamespace(hungry=0)
        self.worker: Any = SimpleNamespace(
            app=SimpleNamespace(hooks=Hooks()),
            pool=SimpleNamespace(resize=lambda size: None),
            pool_name="threads",
            concurrency=size,
            running={},
            sources=[SimpleNamespace(lane=self.lane)],
            stopping=False,
            adjust=SimpleNamespace(resize=self._resize),
            demand=SimpleNamespace(left=self._left),
        )

    def _left(self) -> float | None:
        self.asked += 1
        return self.left

    def _resize(self, by: int) -> int:
        self.worker.concurrency += by
        return int(self.worker.concurrency)

    def scaler(self, most: int, least: int) -> Autoscaler:
        return Autoscaler(self.worker, most, least, keep=30.0, monotonic=lambda: self.now)

    def hold(self, count: int) -> None:
        self.worker.running = dict.fromkeys(range(count))


def test_it_grows_while_messages_wait_and_no_further_than_it_may() -> None:
    scene = Scene(2)
    scaler = scene.scaler(10, 2)
    sizes = []
    for _ in range(5):
        scene.hold(scene.worker.concurrency * 2)  # as many again are prefetched
        sizes.append(scaler.look())

    assert sizes == [4, 8, 10, 10, 10]


def test_busy_but_with_nothing_waiting_it_stays() -> None:
    scene = Scene(4)
    scene.hold(4)

    assert scene.scaler(10, 2).look() == 4


def test_it_grows_only_while_messages_wait_in_its_queues_and_no_more_than_those_need() -> None:
    scene = Scene(4)
    scaler = scene.scaler(20, 1)
    scene.lane.hungry = 1  # as a poll always is when every place is taken
    sizes = []
    for left in (0.0, 0.4, 100.0, 100.0, 2.0, 0.0):
        scene.left = left
        scene.hold(scene.worker.concurrency)
        sizes.append(scaler.look())

    assert sizes == [4, 5, 7, 10, 12, 12]


def test_queues_are_asked_only_when_their_answer_changes_something() -> None:
    scene = Scene(4)
    scaler = scene.scaler(4, 2)
    scene.lane.hungry = 1
    scene.left = 50.0
    scene.hold(4)
    for _ in range(3):
        assert scaler.look() == 4  # at its largest
    scene.now = 20.0
    scene.hold(0)
    scene.left = 0.0
    assert scaler.look() == 4  # places in use lately are kept for a while
    assert scene.asked == 0
    scene.now = 62.0
    assert scaler.look() == 2
    assert scene.asked == 1
    for _ in range(9):
        assert scaler.look() == 2  # idle, at its smallest
    assert scene.asked == 1


def test_it_does_not_shrink_while_a_backlog_waits() -> None:
    scene = Scene(8)
    scaler = scene.scaler(8, 1)
    scene.now = 60.0
    scene.hold(1)
    scene.left = 30.0
    assert scaler.look() == 8
    scene.left = 0.0
    assert scaler.look() == 1


def test_a_queue_that_swings_moves_no_places_to_and_fro() -> None:
    """Bursts with empty moments between them, for ten minutes: it grows once and stays."""
    scene = Scene(1)
    scaler = scene.scaler(8, 1)
    scene.lane.hungry = 1
    sizes = []
    for second in range(600):
        scene.now = float(second)
        busy = second % 20 < 12
        scene.left = 40.0 if busy else 0.0
        scene.hold(scene.worker.concurrency if busy else 0)
        sizes.append(scaler.look())

    changes = [(before, after) for before, after in pairwise(sizes) if before != after]
    assert changes == [(2, 3), (3, 4), (4, 6), (6, 8)]


def test_without_an_answer_of_the_queues_a_poll_that_wants_a_place_is_the_sign() -> None:
    scene = Scene(4)
    scaler = scene.scaler(20, 1)
    sizes = []
    for _ in range(4):
        scene.hold(scene.worker.concurrency)
        scene.lane.hungry = 1
        sizes.append(scaler.look())

    assert sizes == [6, 9, 13, 19]


def test_it_shrinks_to_what_was_used_of_late_and_no_further_than_it_may() -> None:
    scene = Scene(8)
    scaler = scene.scaler(8, 2)
    scene.hold(8)
    scaler.look()
    scene.hold(5)
    scene.now = 20.0
    assert scaler.look() == 8
    scene.hold(0)
    scene.now = 31.0
    assert scaler.look() == 5
    scene.now = 51.0
    assert scaler.look() == 2
    scene.now = 500.0
    assert scaler.look() == 2


def test_a_burst_within_the_quiet_while_keeps_the_places() -> None:
    scene = Scene(8)
    scaler = scene.scaler(8, 1)
    for step in range(20):
        scene.now = step * 10.0
        scene.hold(8 if step % 2 else 0)
        assert scaler.look() == 8


def test_a_worker_that_stops_is_left_alone() -> None:
    scene = Scene(2)
    scene.hold(9)
    scene.worker.stopping = True

    assert scene.scaler(10, 1).look() == 2


def test_a_pool_of_one_size_is_refused() -> None:
    scene = Scene(1)
    scene.worker.pool = object()
    scene.worker.pool_name = "solo"

    with pytest.raises(ImproperlyConfigured, match="the solo pool cannot be resized"):
        scene.scaler(3, 1)


def test_celerys_way_of_writing_it() -> None:
    assert parse("10,3") == (10, 3)
    assert parse(" 10 , 3 ") == (10, 3)
    assert parse("10") == (10, 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [("3,10", "did you mean 10,3"), ("x", "write MAX,MIN"), ("5,0", "at least 1"), ("", "write")],
)
def test_what_cannot_be_is_refused(text: str, words: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=words):
        parse(text)
