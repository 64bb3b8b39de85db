"""A worker on SQS that stops while its long poll waits."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from worker_processes import Scene, WorkerProcess, eventually

from cloudq import CloudQ
from cloudq.brokers.base import QueueSpec


@pytest.fixture
def app(moto_url: str, unique: str) -> Iterator[CloudQ]:
    broker = f"sqs://?region=eu-west-1&endpoint_url={quote(moto_url, safe='')}"
    with CloudQ("client", broker=broker, backend="memory://", task_default_queue=unique) as made:
        made.broker.create_queue(QueueSpec(unique, visibility_timeout=300))  # type: ignore[attr-defined]
        yield made


@pytest.fixture
def scene(tmp_path: Path, app: CloudQ) -> Scene:
    queue = app.conf.task_default_queue
    return Scene(tmp_path, app.broker.url, f"sqlite:///{tmp_path / 'results.db'}", queue)


def polling(scene: Scene, *arguments: str) -> WorkerProcess:
    worker = scene.worker(
        "-P", "threads", "-c", "1", *arguments, AWS_ACCESS_KEY_ID="k", AWS_SECRET_ACCESS_KEY="s"
    )
    time.sleep(0.5)  # its poll is under way: nothing shows that from outside
    return worker


def test_a_worker_with_nothing_to_do_hangs_up(scene: Scene) -> None:
    with polling(scene) as worker:
        asked = time.monotonic()
        assert worker.stop() == 0
        assert time.monotonic() - asked < 15, "a poll takes 20 s"
    assert "Traceback" not in worker.text


def test_with_patience_what_a_last_poll_brings_is_given_back(scene: Scene, app: CloudQ) -> None:
    with polling(scene, "--poll-patience", "20") as worker:
        worker.signal(signal.SIGTERM)
        eventually("it has understood", lambda: "stopping" in worker.text)
        app.send_task("worker_app.add", (1, 2))
        assert worker.wait() == 0
    depth = app.broker.depth(scene.queue)
    assert (depth.visible, depth.in_flight) == (1, 0)
