"""The control plane, events and history on every kind of results store, on real servers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from blob_servers import make_azure_container, make_gcs_bucket

from cloudq import CloudQ
from cloudq.backends.open import open_backend
from cloudq.coordination.board import INLINE
from cloudq.testing.workers import running_worker

WAIT = 45.0
SLOW = pytest.mark.slow


@pytest.fixture(
    params=[
        "file",
        "dynamodb",
        pytest.param("s3", marks=SLOW),
        pytest.param("gs", marks=SLOW),
        pytest.param("azureblob", marks=SLOW),
        pytest.param("tiered", marks=SLOW),
    ]
)
def store(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, unique: str
) -> str:
    """The URL of a store that is there."""
    kind = request.param
    if kind == "file":
        return f"file:///{tmp_path}/store"
    if kind == "gs":
        at = request.getfixturevalue("fake_gcs_url")
        make_gcs_bucket(at, unique)
        return f"gs://{unique}/results?endpoint_url={at}"
    if kind == "azureblob":
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", request.getfixturevalue("azurite"))
        make_azure_container(os.environ["AZURE_STORAGE_CONNECTION_STRING"], unique)
        return f"azureblob://{unique}/results"
    at = request.getfixturevalue("ministack_url")
    if kind in ("s3", "tiered"):
        boto3.client("s3", endpoint_url=at).create_bucket(Bucket=unique)
    if kind == "s3":
        return f"s3://{unique}/results?endpoint_url={at}"
    table = f"dynamodb://{unique}?endpoint_url={at}"
    made: Any = open_backend(table)
    made.create_table()
    made.close()
    return table if kind == "dynamodb" else f"{table}&large=s3://{unique}/large"


@pytest.fixture
def app(store: str) -> Iterator[CloudQ]:
    settings = {"control_interval": 0.3, "worker_heartbeat_interval": 1.0, "monitoring": "history"}
    with CloudQ("everywhere", broker="memory://", backend=store, **settings) as app:

        @app.task(name="add")
        def add(x: int, y: int) -> int:
            return x + y

        yield app


def test_workers_are_seen_asked_told_and_remembered(app: CloudQ) -> None:
    many = [f"t-{n}" for n in range(INLINE + 5)]
    app.control.boards.revoke(many, app.clock.time() + 1000, False)
    doomed = app.send_task("add", (0, 0), task_id=many[7])
    with running_worker(app, hostname="w/1", concurrency=2):
        assert [each.hostname for each in app.control.workers()] == ["w/1"]
        assert app.control.ping(timeout=WAIT) == [{"w/1": {"ok": "pong"}}]
        assert app.control.pool_grow(3, reply=True, timeout=WAIT) == [{"w/1": {"ok": "5 at once"}}]
        assert len(app.control.inspect(timeout=WAIT).revoked()["w/1"]) == len(many)
        result = app.send_task("add", (1, 2))
        assert result.get(timeout=WAIT) == 3
        assert doomed.get(timeout=WAIT, propagate=False) is not None
        assert doomed.state == "REVOKED"
        app.control.pause("cloudq")
        while not app.control.inspect(timeout=WAIT).active_queues()["w/1"][0]["paused"]:
            time.sleep(0.005)
        app.control.resume("cloudq")
        assert app.send_task("add", (2, 2)).get(timeout=WAIT) == 4

    assert app.control.workers() == []
    events = list(app.events.Receiver(back=300).itercapture(timeout=0.0))
    mine = [each["type"] for each in events if each.get("uuid") == result.id]
    assert [each for each in mine if each != "task-sent"] == [
        "task-received",
        "task-started",
        "task-succeeded",
    ]
    states = {each.id: each.state for each in app.history.query().entries}
    assert (states[result.id], states[doomed.id]) == ("SUCCESS", "REVOKED")
    assert [each.id for each in app.history.query(state="REVOKED").entries] == [doomed.id]
