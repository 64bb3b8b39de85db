"""Autoscaling: when a worker grows and when it shrinks, on a clock that stands still."""

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
        )

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


def test_without_prefetching_a_poll_that_wants_a_place_is_the_sign() -> None:
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
