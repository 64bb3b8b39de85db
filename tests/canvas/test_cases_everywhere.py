"""The corpus on real workers: threads and prefork, on SQLite and on SQS with DynamoDB; all must agree.

One worker process runs all cases at once: what one of them does must not touch another.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from worker_processes import Scene, WorkerProcess, sqlite_scene

from cloudq import CloudQ
from cloudq.backends.open import open_backend
from cloudq.brokers.base import QueueSpec
from cloudq.brokers.open import open_broker

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from canvas import app_tasks
from canvas.cases import CASES
from canvas.running import Started

WAIT = 90.0


@contextmanager
def aws_scene(folder: Path, url: str, unique: str) -> Iterator[Scene]:
    """A queue with dead letters, and a table."""
    broker_url = f"sqs://?region=us-east-1&endpoint_url={url}"
    broker: Any = open_broker(broker_url)
    broker.create_queue(QueueSpec(unique, max_receive_count=5))
    backend_url = f"dynamodb://{unique}?region=us-east-1&endpoint_url={url}"
    table: Any = open_backend(backend_url)
    table.create_table()
    yield Scene(folder, broker_url, backend_url, unique)


def all_cases_agree(scene: Scene, pool: str) -> None:
    app = CloudQ("corpus", broker=scene.broker, backend=scene.backend, task_default_queue=scene.queue)
    app_tasks.declare(app)
    tasks = {name: app.tasks[name] for name in app.tasks}
    command = [sys.executable, "-m", "cloudq", "worker", "-A", "canvas.corpus_app:app", "-Q", scene.queue]
    worker = WorkerProcess(
        [*command, "-P", pool, "-c", "4"], scene.env(), scene.folder, scene.folder / "corpus.log"
    )
    with app, worker:
        worker.wait_ready()
        started = [Started(case, app, tasks) for case in CASES]
        wrong = []
        for each in started:
            try:
                each.check(timeout=WAIT)
            except AssertionError as error:
                wrong.append(str(error).splitlines()[0])
        assert wrong == [], worker.text[-3000:]


@pytest.mark.timeout(240)
def test_threads_on_sqlite(tmp_path: Path) -> None:
    with sqlite_scene(tmp_path) as scene:
        all_cases_agree(scene, "threads")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_prefork_on_sqlite(tmp_path: Path) -> None:
    with sqlite_scene(tmp_path) as scene:
        all_cases_agree(scene, "prefork")


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_on_sqs_and_dynamodb(pool: str, tmp_path: Path, ministack_url: str, unique: str) -> None:
    with aws_scene(tmp_path, ministack_url, unique) as scene:
        all_cases_agree(scene, pool)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(240)
def test_on_sqs_and_s3(tmp_path: Path, ministack_url: str, unique: str) -> None:
    import boto3

    with aws_scene(tmp_path, ministack_url, unique) as scene:
        boto3.client("s3", endpoint_url=ministack_url).create_bucket(Bucket=unique)
        scene.backend = f"s3://{unique}/results?region=us-east-1&endpoint_url={ministack_url}"
        all_cases_agree(scene, "threads")
