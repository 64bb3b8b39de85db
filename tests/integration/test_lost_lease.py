"""What a worker does with a task whose lease it has lost (decision 2), and with poison (issue 3, proof f)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from worker_processes import Scene, eventually, sqlite_scene

from cloudq import CloudQ
from cloudq.errors import WorkerLostError

WAIT = 45.0
POOLS = [
    "prefork",
    pytest.param("threads", marks=pytest.mark.slow),
    pytest.param("solo", marks=pytest.mark.slow),
]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with sqlite_scene(tmp_path, visibility_timeout=60, max_receive_count=3) as made:
        yield made


@pytest.fixture
def app(scene: Scene) -> Iterator[CloudQ]:
    with CloudQ("client", broker=scene.broker, backend=scene.backend, task_default_queue=scene.queue) as made:
        yield made


def send(app: CloudQ, name: str, *args: Any, **options: Any) -> Any:
    return app.send_task(f"worker_app.{name}", args, **options)


@pytest.mark.parametrize("pool", POOLS)
def test_a_task_whose_lease_was_lost_writes_no_result_and_sends_nothing(
    scene: Scene, app: CloudQ, pool: str
) -> None:
    """Lost early: long before its first visibility timeout would have ended."""
    with scene.worker("-P", pool, "-c", "1", "--visibility-timeout", "3") as worker:
        link = app.signature("worker_app.report")
        lost = send(app, "nap", 1.7, link=[link])
        eventually("it runs", lambda: scene.runs("start", lost.id))
        app.broker.purge(scene.queue)  # the renewal is refused from now on
        eventually("it is noticed", lambda: "is lost" in worker.text)
        eventually("it has run", lambda: scene.runs("end", lost.id))
        after = send(app, "add", 1, 2)
        assert after.get(timeout=WAIT) == 3
        assert worker.stop() == 0

    assert "nothing is recorded" in worker.text
    assert lost.state == "PENDING"
    assert not scene.runs("report")


@pytest.mark.parametrize("pool", POOLS)
def test_a_waiting_task_whose_lease_was_lost_is_not_started(scene: Scene, app: CloudQ, pool: str) -> None:
    with scene.worker("-P", pool, "-c", "1", "--visibility-timeout", "1") as worker:
        running = send(app, "nap", 2.5)
        eventually("it runs", lambda: scene.runs("start", running.id))
        waiting = send(app, "work", 1)
        eventually("it is in its hands", lambda: app.broker.depth(scene.queue).in_flight == 2)
        app.broker.purge(scene.queue)
        eventually("both are lost", lambda: worker.text.count("is lost") == 2)
        after = send(app, "add", 1, 2)
        assert after.get(timeout=WAIT) == 3
        assert worker.stop() == 0

    assert not scene.runs("start", waiting.id)


@pytest.mark.parametrize("pool", POOLS)
def test_a_task_acknowledged_early_has_no_lease_to_lose(scene: Scene, app: CloudQ, pool: str) -> None:
    with scene.worker("-P", pool, "-c", "1", "--visibility-timeout", "1") as worker:
        result = send(app, "once", 2.0)
        assert result.get(timeout=WAIT) == "done once"
        assert worker.stop() == 0

    assert "lost" not in worker.text


@pytest.mark.parametrize(
    "pool", ["threads", *(pytest.param(each, marks=pytest.mark.slow) for each in ("solo", "asyncio"))]
)
def test_poison_that_takes_the_whole_worker_along_ends_as_worker_lost_in_the_dead_letters(
    scene: Scene, app: CloudQ, pool: str
) -> None:
    """Proof (f) where tasks share the worker's process; test_worker_shutdown has it for prefork."""
    poison = send(app, "die", "exit")
    workers = 0
    while len(scene.runs("start", poison.id)) < 2:
        workers += 1
        with scene.worker("-P", pool, "-c", "1", "--visibility-timeout", "1", ready=False) as worker:
            assert worker.wait() == 7, worker.text
    assert workers == 2
    assert poison.state == "PENDING"

    with scene.worker("-P", pool, "-c", "1", "--visibility-timeout", "1") as survivor:
        with pytest.raises(WorkerLostError, match="exit code 7"):
            poison.get(timeout=WAIT)
        eventually("it is buried", lambda: app.broker.depth(f"{scene.queue}-dlq").visible == 1)
        assert send(app, "add", 1, 2).get(timeout=WAIT) == 3
        assert survivor.stop() == 0

    assert len(scene.runs("start", poison.id)) == 3
    assert app.broker.depth(scene.queue).total == 0
    (letter,) = app.broker.receive(f"{scene.queue}-dlq", 10, 0.0, 1.0)
    assert letter.attributes["cloudq-reason"] == "worker_lost"


def test_an_innocent_last_chance_is_an_ordinary_success(scene: Scene, app: CloudQ) -> None:
    result = send(app, "work", 5)
    for _ in range(2):
        (got,) = app.broker.receive(scene.queue, 1, 1.0, 60.0)
        app.broker.release([got])
    with scene.worker("-P", "threads", "-c", "1") as worker:
        assert result.get(timeout=WAIT) == 5
        assert "last chance" in worker.text
        assert worker.stop() == 0

    (run,) = scene.runs("start", result.id)
    assert run.pid != worker.pid
    assert app.broker.depth(scene.queue).total == 0


def test_a_last_chance_is_given_back_when_the_worker_stops(scene: Scene, app: CloudQ) -> None:
    result = send(app, "nap", 90.0)  # longer than anybody waits here
    for _ in range(2):
        (got,) = app.broker.receive(scene.queue, 1, 1.0, 60.0)
        app.broker.release([got])
    with scene.worker("-P", "threads", "-c", "1", "--shutdown-timeout", "0.3") as worker:
        eventually("it runs", lambda: scene.runs("start", result.id))
        assert worker.stop() == 3
    assert app.broker.depth(scene.queue).visible == 1
