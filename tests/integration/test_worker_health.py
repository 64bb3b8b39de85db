"""A worker process that is asked how it is, while its queue is there and while it is not."""

import json
import re
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from broken_line import Line, line_to
from worker_processes import Scene, WorkerProcess, eventually

from cloudq import CloudQ
from cloudq.brokers.base import QueueSpec


@pytest.fixture
def line(moto_url: str) -> Iterator[Line]:
    with line_to(moto_url) as made:
        yield made


@pytest.fixture
def app(moto_url: str, unique: str) -> Iterator[CloudQ]:
    broker = f"sqs://?region=eu-west-1&endpoint_url={quote(moto_url, safe='')}"
    with CloudQ("client", broker=broker, backend="memory://", task_default_queue=unique) as made:
        made.broker.create_queue(QueueSpec(unique, visibility_timeout=60))  # type: ignore[attr-defined]
        yield made


@pytest.fixture
def scene(tmp_path: Path, app: CloudQ, line: Line) -> Scene:
    broker = f"sqs://?region=eu-west-1&endpoint_url={quote(line.url, safe='')}"
    return Scene(tmp_path, broker, f"sqlite:///{tmp_path / 'results.db'}", app.conf.task_default_queue)


def start(scene: Scene, **env: str) -> WorkerProcess:
    return scene.worker(
        *("-P", "threads", "-c", "1", "--health-port", "0"),
        AWS_ACCESS_KEY_ID="k",
        AWS_SECRET_ACCESS_KEY="s",
        CLOUDQ_WORKER_WAIT_TIME="1",
        CLOUDQ_WORKER_HEALTH_TIMEOUT="3",
        **env,
    )


def ask(worker: WorkerProcess, path: str) -> tuple[int, Any]:
    found = re.search(r"health on (http://127\.0\.0\.1:\d+)", worker.text)
    assert found
    try:
        with urllib.request.urlopen(found[1] + path, timeout=5) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_health_follows_the_queue_and_readiness_the_worker(
    scene: Scene, app: CloudQ, line: Line, tmp_path: Path
) -> None:
    address = tmp_path / "notify"
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(address))
    manager.settimeout(20)
    heard: list[str] = []

    def hear(word: str) -> None:
        while word not in (heard[-1:] or [""])[0]:
            heard.append(manager.recv(4096).decode())

    with manager, start(scene, NOTIFY_SOCKET=str(address), WATCHDOG_USEC="200000") as worker:
        hear("READY=1")
        hear("WATCHDOG=1")
        assert ask(worker, "/healthz")[0] == 200
        assert ask(worker, "/readyz")[0] == 200
        line.cut()
        eventually("it is unwell", lambda: ask(worker, "/healthz")[0] == 503)
        assert ask(worker, "/readyz")[0] == 503
        hear("STATUS=no poll has succeeded")
        line.mend()
        eventually("it is well again", lambda: ask(worker, "/healthz")[0] == 200)
        hear("WATCHDOG=1")
        task = app.send_task("worker_app.nap", (2.0,))
        eventually("it runs", lambda: scene.runs("start", task.id))
        worker.signal(signal.SIGTERM)
        hear("STOPPING=1")
        assert ask(worker, "/healthz")[0] == 200, "it still works"
        status, report = ask(worker, "/readyz")
        assert status == 503
        assert report["stopping"]
        assert worker.wait() == 0
    assert scene.runs("end", task.id)


@pytest.mark.slow
def test_a_worker_whose_places_are_taken_for_long_is_well(scene: Scene, app: CloudQ) -> None:
    """It does not poll, since it could not start anything."""
    with start(scene) as worker:
        tasks = [app.send_task("worker_app.nap", (6.0,)) for _ in range(2)]
        eventually("it runs", lambda: scene.runs("start"))
        eventually("the first has run", lambda: _well(worker) and len(scene.runs("end")) == 1)
        worker.kill()
    assert len(tasks) == 2


def _well(worker: WorkerProcess) -> bool:
    status, report = ask(worker, "/healthz")
    assert status == 200, report
    return True
