"""Tasks five times longer than the visibility timeout run exactly once, and so do their neighbours that
wait in the worker's hands (issue 3, proof a): on every pool, while a second worker would take what came back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from worker_processes import Scene, sqlite_scene

from cloudq import CloudQ
from cloudq.backends.open import open_backend
from cloudq.brokers.base import QueueSpec
from cloudq.brokers.open import open_broker

VISIBILITY = 1.0
#: Running at once and, times this, waiting beside them.
CONCURRENCY, PREFETCH = 2, 3


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Scene]:
    with sqlite_scene(tmp_path) as scene:
        queue = open_broker(scene.broker)
        queue.create_queue(QueueSpec(scene.queue, VISIBILITY, max_receive_count=2))  # type: ignore[attr-defined]
        queue.close()
        yield scene


@pytest.fixture
def aws(tmp_path: Path, ministack_url: str, unique: str) -> Iterator[Scene]:
    """SQS counts whole seconds: a lease of one second is renewed within it."""
    scene = Scene(
        tmp_path,
        f"sqs://?endpoint_url={ministack_url}",
        f"dynamodb://{unique}?endpoint_url={ministack_url}",
        unique,
    )
    queue, table = open_broker(scene.broker), open_backend(scene.backend)
    queue.create_queue(QueueSpec(unique, 2 * VISIBILITY, max_receive_count=2))  # type: ignore[attr-defined]
    table.create_table()  # type: ignore[attr-defined]
    yield scene
    table.delete_table()  # type: ignore[attr-defined]
    table.close()
    queue.close()


def prove(scene: Scene, pool: str, task: str, visibility: float) -> None:
    """Fill a worker's hands, then start one with nothing to do but to take what comes back."""
    width = 1 if pool == "solo" else CONCURRENCY
    held = width * (1 + PREFETCH)
    arguments = ["-c", str(width), "--prefetch-multiplier", str(PREFETCH)]
    with (
        CloudQ("client", broker=scene.broker, backend=scene.backend, task_default_queue=scene.queue) as app,
        scene.worker("-P", pool, *arguments, "--visibility-timeout", str(visibility)) as worker,
    ):
        # the first ones run for five timeouts; the last ones wait for as long, and then run for another
        long, short = 5 * visibility, 0.1
        times = [long] * width + [short] * (held - width)
        results = [app.send_task(f"worker_app.{task}", (seconds,)) for seconds in times]
        with scene.worker("-P", "threads", "-c", "4", "--visibility-timeout", str(visibility)) as other:
            assert {each.get(timeout=6 * long + 20) for each in results} == {"rested"}
            assert other.stop() == 0
            assert other.pid not in {run.pid for run in scene.runs()}, "it took what the first one held"
        assert worker.stop() == 0
        assert app.broker.depth(scene.queue).total == 0
        assert app.broker.depth(app.broker.describe(scene.queue).dead_letter_queue or "").total == 0
    starts = Counter(run.task_id for run in scene.runs("start"))
    assert starts == Counter({each.id: 1 for each in results})
    assert starts == Counter(run.task_id for run in scene.runs() if run.what in ("end", "out"))


@pytest.mark.parametrize(
    ("pool", "task"),
    [
        pytest.param("solo", "nap", marks=pytest.mark.slow),
        ("threads", "nap"),
        pytest.param("prefork", "nap", marks=pytest.mark.slow),
        pytest.param("asyncio", "doze", marks=pytest.mark.slow),
    ],
)
def test_long_tasks_and_their_neighbours_run_once(sqlite: Scene, pool: str, task: str) -> None:
    prove(sqlite, pool, task, VISIBILITY)


@pytest.mark.slow
@pytest.mark.parametrize(("pool", "task"), [("threads", "nap"), ("prefork", "nap"), ("asyncio", "doze")])
def test_long_tasks_on_aws_and_their_neighbours_run_once(aws: Scene, pool: str, task: str) -> None:
    prove(aws, pool, task, 2 * VISIBILITY)
