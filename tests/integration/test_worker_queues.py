"""Several queues in one worker process: shares, limits, order."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from worker_processes import Scene, eventually, sqlite_scene

from cloudq import CloudQ

WAIT = 45.0


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with sqlite_scene(tmp_path, visibility_timeout=60) as made:
        yield made


@pytest.fixture
def app(scene: Scene) -> Iterator[CloudQ]:
    with CloudQ("client", broker=scene.broker, backend=scene.backend, task_default_queue=scene.queue) as made:
        yield made


def send(app: CloudQ, queue: str, count: int, seconds: float) -> list[Any]:
    return [app.send_task("worker_app.work", (n, seconds), queue=queue) for n in range(count)]


def consume(scene: Scene, queues: str, *arguments: str) -> Any:
    scene.queue = queues
    return scene.worker("-P", "threads", *arguments)


def order(scene: Scene, **queues: list[Any]) -> str:
    """The queues' first letters in the order in which their tasks began."""
    names = {each.id: name[0] for name, results in queues.items() for each in results}
    return "".join(names[run.task_id] for run in scene.runs("start"))


def most_at_once(scene: Scene, results: list[Any]) -> int:
    ids = {each.id for each in results}
    running = most = 0
    for run in scene.runs():
        if run.task_id in ids:
            running += 1 if run.what == "start" else -1
            most = max(most, running)
    return most


def test_a_queue_runs_no_more_at_once_than_its_own_number(scene: Scene, app: CloudQ) -> None:
    slow, quick = send(app, "slow", 6, 0.3), send(app, "quick", 30, 0.01)
    with consume(scene, "slow=2,quick=2") as worker:
        assert [each.get(timeout=WAIT) for each in [*slow, *quick]] == [*range(6), *range(30)]
        assert "concurrency 4" in worker.text
        assert worker.stop() == 0

    assert most_at_once(scene, slow) <= 2
    assert most_at_once(scene, quick) <= 2
    began = order(scene, slow=slow, quick=quick)
    assert "qqqq" in began[:12], "the quick ones did not wait for the slow ones"


def test_strict_order_starts_nothing_of_a_queue_while_one_before_it_has_messages(
    scene: Scene, app: CloudQ
) -> None:
    low, high = send(app, "low", 5, 0.02), send(app, "high", 25, 0.02)
    with consume(
        scene, "high,low", "-c", "1", "--prefetch-multiplier", "0", "--queue-order", "strict"
    ) as worker:
        for each in [*high, *low]:
            each.get(timeout=WAIT)
        assert worker.stop() == 0

    assert order(scene, high=high, low=low) == "h" * 25 + "l" * 5


def test_a_busy_queue_does_not_starve_another(scene: Scene, app: CloudQ) -> None:
    busy = send(app, "busy", 60, 0.05)
    with consume(scene, "busy,calm", "-c", "2") as worker:
        eventually("it is at work", lambda: len(scene.runs("end")) >= 4)
        calm = send(app, "calm", 10, 0.05)
        for each in calm:
            each.get(timeout=WAIT)
        left = [each for each in busy if not each.ready()]
        assert worker.stop() == 0

    assert len(left) > 20


def test_what_makes_no_sense_is_refused_at_the_start(scene: Scene) -> None:
    for arguments, words in (
        (["-Q", "a=x"], "write NAME"),
        (["-Q", "a:2,b", "--queue-order", "strict"], "the order is strict"),
        (["-Q", "a,b", "--queue-order", "faire"], "did you mean 'fair'"),
    ):
        ended = scene.cloudq("worker", "-A", "worker_app:app", *arguments)
        assert ended.returncode == 1
        assert words in ended.stderr
