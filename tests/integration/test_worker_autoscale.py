"""A worker process that grows under load, and one that is told two things at once."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from worker_processes import Scene, sqlite_scene

from cloudq import CloudQ
from cloudq.backends.open import open_backend
from cloudq.brokers.base import QueueSpec
from cloudq.brokers.open import open_broker


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with sqlite_scene(tmp_path, visibility_timeout=60) as made:
        yield made


@pytest.fixture
def cloud(request: pytest.FixtureRequest, tmp_path: Path, unique: str) -> Scene:
    """On SQS and DynamoDB, where a look at a queue's depth is a request, and is made every 15 seconds at the most."""
    url = request.getfixturevalue("ministack_url")
    made = Scene(tmp_path, f"sqs://?endpoint_url={url}", f"dynamodb://{unique}?endpoint_url={url}", unique)
    queue, table = open_broker(made.broker), open_backend(made.backend)
    queue.create_queue(QueueSpec(made.queue, 60.0))  # type: ignore[attr-defined]
    table.create_table()  # type: ignore[attr-defined]
    queue.close()
    table.close()
    return made


def test_a_busy_worker_whose_queue_is_empty_does_not_grow(scene: Scene) -> None:
    with CloudQ("client", broker=scene.broker, backend=scene.backend) as app:
        with scene.worker(
            "-P", "threads", "--autoscale", "4,1", CLOUDQ_WORKER_PREFETCH_MULTIPLIER="0"
        ) as worker:
            task = app.send_task("worker_app.nap", (3.0,), queue=scene.queue)
            assert task.get(timeout=60) == "rested"
            assert worker.stop() == 0
        assert "autoscale:" not in worker.text


@pytest.mark.slow
def test_it_grows_by_what_waits_in_sqs(cloud: Scene) -> None:
    test_a_worker_grows_while_messages_wait(cloud, "threads")


@pytest.mark.parametrize(
    "pool", ["threads", *(pytest.param(each, marks=pytest.mark.slow) for each in ("prefork", "asyncio"))]
)
def test_a_worker_grows_while_messages_wait(scene: Scene, pool: str) -> None:
    with CloudQ("client", broker=scene.broker, backend=scene.backend) as app:
        tasks = [app.send_task("worker_app.nap", (1.5,), queue=scene.queue) for _ in range(20)]
        with scene.worker("-P", pool, "--autoscale", "4,1") as worker:
            assert "concurrency 1" in worker.text
            for each in tasks:
                each.get(timeout=60)
            assert worker.stop() == 0
        assert "autoscale: 1 -> 2 places" in worker.text
        assert "autoscale: 2 -> 4 places" in worker.text
    running = most = 0
    for run in scene.runs():
        running += 1 if run.what == "start" else -1
        most = max(most, running)
    assert most == 4


def test_what_cannot_be_scaled_is_refused_at_the_start(scene: Scene) -> None:
    for arguments, words in (
        (["--autoscale", "4,1", "-c", "2"], "leave --concurrency out"),
        (["--autoscale", "1,4"], "did you mean 4,1"),
        (["--autoscale", "4", "-P", "solo"], "the solo pool cannot be resized"),
    ):
        ended = scene.cloudq("worker", "-A", "worker_app:app", *arguments)
        assert ended.returncode == 1
        assert words in ended.stderr
