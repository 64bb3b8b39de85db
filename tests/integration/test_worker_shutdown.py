"""Leases, signals, deaths: what happens to the tasks that a worker process holds."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from worker_processes import Scene, alive, eventually, sqlite_scene

from cloudq import CloudQ
from cloudq.errors import TimeLimitExceeded, WorkerLostError

POOLS = ["solo", "threads", "prefork"]
#: One quick, the others with the slow tests.
ONE_POOL = [pytest.param(pool, marks=pytest.mark.slow) if pool != "threads" else pool for pool in POOLS]
WAIT = 45.0


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """Messages stay invisible for a minute: what comes back sooner was given back."""
    with sqlite_scene(tmp_path, visibility_timeout=60, max_receive_count=3) as made:
        yield made


@pytest.fixture
def app(scene: Scene) -> Iterator[CloudQ]:
    with CloudQ("client", broker=scene.broker, backend=scene.backend, task_default_queue=scene.queue) as made:
        yield made


def send(app: CloudQ, name: str, *args: Any, **options: Any) -> Any:
    return app.send_task(f"worker_app.{name}", args, **options)


@pytest.mark.parametrize("pool", ONE_POOL)
def test_a_task_longer_than_the_visibility_timeout_and_its_neighbours_run_once(
    scene: Scene, app: CloudQ, pool: str
) -> None:
    with scene.worker(
        "-P", pool, "-c", "1", "--prefetch-multiplier", "3", "--visibility-timeout", "1"
    ) as worker:
        results = [send(app, "work", 0, 2.5), *(send(app, "work", n, 0.1) for n in range(1, 4))]
        with scene.worker(
            "-P", "threads", "-c", "1", "--visibility-timeout", "1"
        ):  # would take what comes back
            assert [each.get(timeout=WAIT) for each in results] == [0, 1, 2, 3]
            time.sleep(0.2)
        assert worker.stop() == 0
    assert sorted(run.task_id for run in scene.runs("start")) == sorted(each.id for each in results)
    assert app.broker.depth(scene.queue).total == 0


@pytest.mark.parametrize("pool", POOLS)
def test_sigterm_lets_the_running_task_finish_and_gives_back_the_others_at_once(
    scene: Scene, app: CloudQ, pool: str
) -> None:
    worker = scene.worker("-P", pool, "-c", "1", "--prefetch-multiplier", "4")
    with worker:
        running = send(app, "held", str(scene.folder / "go"))
        eventually("it runs", lambda: scene.runs("start", running.id))
        waiting = [send(app, "add", n, n) for n in range(3)]
        eventually("all are in its hands", lambda: app.broker.depth(scene.queue).in_flight == 4)
        worker.signal(signal.SIGTERM)
        eventually("given back", lambda: app.broker.depth(scene.queue).visible == 3)
        with scene.worker("-P", "threads", "-c", "1") as other:
            assert [each.get(timeout=WAIT) for each in waiting] == [0, 2, 4]
            (scene.folder / "go").touch()
            assert worker.wait() == 0
            assert running.get(timeout=WAIT) == "let go"
            assert other.stop() == 0
    assert len(scene.runs("start", running.id)) == 1
    assert app.broker.depth(scene.queue).total == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
@pytest.mark.parametrize("pool", POOLS)
def test_a_second_signal_ends_it_at_once_and_the_task_is_delivered_again(
    scene: Scene, app: CloudQ, pool: str, number: signal.Signals
) -> None:
    with scene.worker("-P", pool, "-c", "1", "--shutdown-timeout", "120") as worker:
        running = send(app, "work", 7, 90.0)  # longer than anybody waits here
        eventually("it runs", lambda: scene.runs("start", running.id))
        worker.signal(number)
        eventually("it has understood", lambda: "stopping" in worker.text or pool == "solo")
        time.sleep(0.1)
        worker.signal(number)
        assert worker.wait() == 3
    assert app.broker.depth(scene.queue).visible == 1
    assert running.state == "PENDING"
    assert "Traceback" not in worker.text


@pytest.mark.parametrize("pool", ONE_POOL)
def test_a_task_that_outlasts_the_shutdown_timeout_is_cut_short_and_given_back(
    scene: Scene, app: CloudQ, pool: str
) -> None:
    with scene.worker("-P", pool, "-c", "1", "--shutdown-timeout", "0.5") as worker:
        running = send(app, "work", 7, 90.0)  # longer than anybody waits here
        eventually("it runs", lambda: scene.runs("start", running.id))
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 3
    assert app.broker.depth(scene.queue).visible == 1


@pytest.mark.parametrize("pool", ONE_POOL)
def test_a_hard_limit_that_strikes_during_shutdown_is_the_tasks_failure(
    scene: Scene, app: CloudQ, pool: str
) -> None:
    with scene.worker("-P", pool, "-c", "1") as worker:
        running = send(app, "nap", 20.0, time_limit=0.8)
        eventually("it runs", lambda: scene.runs("start", running.id))
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
    with pytest.raises(TimeLimitExceeded):
        running.get(timeout=1.0)
    assert app.broker.depth(scene.queue).total == 0


@pytest.mark.parametrize("pool", POOLS)
def test_an_idle_worker_stops_at_once(scene: Scene, pool: str) -> None:
    with scene.worker("-P", pool, "-c", "2", CLOUDQ_WORKER_WAIT_TIME="120") as worker:
        time.sleep(0.3)  # its poll is under way: nothing shows that from outside
        assert worker.stop() == 0  # it waits for less than such a poll takes
    assert "Traceback" not in worker.text


@pytest.mark.parametrize(
    "how", ["SIGSEGV", *(pytest.param(how, marks=pytest.mark.slow) for how in ("exit", "SIGKILL"))]
)
def test_a_task_that_kills_its_process_ends_in_the_dead_letter_queue_and_harms_nobody(
    scene: Scene, app: CloudQ, how: str
) -> None:
    with scene.worker("-P", "prefork", "-c", "2") as worker:
        poison = send(app, "die", how)
        others = [send(app, "work", n, 0.05) for n in range(20)]
        assert [each.get(timeout=WAIT) for each in others] == list(range(20))
        with pytest.raises(WorkerLostError, match="exit code 7" if how == "exit" else how):
            poison.get(timeout=WAIT)
        assert send(app, "add", 1, 2).get(timeout=WAIT) == 3
        assert worker.stop() == 0
    assert len(scene.runs("start", poison.id)) == 3
    assert sorted(run.task_id for run in scene.runs("end")) == sorted(each.id for each in others)
    assert app.broker.depth(scene.queue).total == 0
    (letter,) = app.broker.receive(f"{scene.queue}-dlq", 10, 0.0, 1.0)
    assert poison.id in letter.body
    assert letter.attributes["cloudq-reason"] == "worker_lost"


def test_a_task_acknowledged_early_that_kills_its_process_has_failed(scene: Scene, app: CloudQ) -> None:
    with scene.worker("-P", "prefork", "-c", "1") as worker:
        poison = send(app, "die_once")
        with pytest.raises(WorkerLostError, match="exit code 7"):
            poison.get(timeout=WAIT)
        assert worker.stop() == 0
    assert len(scene.runs("start", poison.id)) == 1


def test_no_child_outlives_a_killed_parent(scene: Scene, app: CloudQ) -> None:
    with scene.worker("-P", "prefork", "-c", "3") as worker:
        running = send(app, "work", 7, 20.0)
        eventually("it runs", lambda: scene.runs("start", running.id))
        children = worker.children()
        assert len(children) >= 3
        worker.kill()
        eventually("all are gone", lambda: not any(alive(each) for each in children), timeout=5.0)
