"""A worker that cannot start says why, in one line, and exits with 1."""

from __future__ import annotations

from pathlib import Path

import pytest
import servers
from worker_processes import Scene

from cloudq.backends.open import open_backend
from cloudq.brokers.base import QueueSpec
from cloudq.brokers.open import open_broker

SECONDS = 20.0


@pytest.fixture
def here(tmp_path: Path) -> Scene:
    return Scene(tmp_path, f"sqlite:///{tmp_path}/q.db", f"sqlite:///{tmp_path}/q.db")


def refused(scene: Scene, *arguments: str, **env: str) -> str:
    """Start a worker that must not start; what it printed on stderr."""
    done = scene.cloudq("worker", "-A", "worker_app:app", "-Q", scene.queue, *arguments, **env)
    assert done.returncode == 1, (done.returncode, done.stderr)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


def aws(folder: Path, url: str, queue: str, table: str, region: str = "region=us-east-1&") -> Scene:
    return Scene(
        folder, f"sqs://?{region}endpoint_url={url}", f"dynamodb://{table}?{region}endpoint_url={url}", queue
    )


def test_a_missing_queue_is_named(tmp_path: Path, ministack_url: str) -> None:
    line = refused(aws(tmp_path, ministack_url, "nobody-made-this", "nor-this"))
    assert "nobody-made-this" in line
    assert "cloudq queues create" in line


def test_a_missing_table_is_named(tmp_path: Path, ministack_url: str, unique: str) -> None:
    scene = aws(tmp_path, ministack_url, unique, "nobody-made-this-table")
    broker = open_broker(scene.broker)
    broker.create_queue(QueueSpec(unique))  # type: ignore[attr-defined]
    broker.close()
    assert "nobody-made-this-table" in refused(scene)


def test_an_address_where_nobody_answers_is_named(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{servers.free_port()}"
    assert url in refused(aws(tmp_path, url, "any", "table"))


def test_missing_credentials_are_named(tmp_path: Path, ministack_url: str) -> None:
    line = refused(
        aws(tmp_path, ministack_url, "any", "table"),
        AWS_ACCESS_KEY_ID="",
        AWS_SECRET_ACCESS_KEY="",
    )
    assert "redentials" in line


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("carrier-pigeon://loft", "carrier-pigeon"),
        ("sqs://?visibility=3", "visibility"),
        ("sqlite://relative.db", "three slashes"),
    ],
)
def test_a_wrong_broker_url_is_explained(here: Scene, url: str, told: str) -> None:
    assert told in refused(here, "--broker", url)


def test_a_pool_nobody_knows_is_named(here: Scene) -> None:
    assert "swimming" in refused(here, "-P", "swimming")


def test_an_app_that_cannot_be_imported_is_named(here: Scene) -> None:
    done = here.cloudq("worker", "-A", "no_such_module:app")
    assert done.returncode == 1
    assert "no_such_module" in done.stderr
    assert "Traceback" not in done.stderr


def test_debug_shows_the_traceback(here: Scene) -> None:
    done = here.cloudq("--debug", "worker", "-A", "worker_app:app", "--broker", "carrier-pigeon://loft")
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")


def test_a_store_that_is_there_is_no_error(here: Scene) -> None:
    backend = open_backend(here.backend)
    backend.close()
    with here.worker("-P", "solo") as worker:
        assert worker.stop() == 0
