"""Revoke against real worker processes: pending, waiting in the worker, running, on every pool."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from worker_processes import Scene, eventually, sqlite_scene

from cloudq import CloudQ
from cloudq.backends.open import open_backend
from cloudq.brokers.base import QueueSpec
from cloudq.brokers.open import open_broker
from cloudq.errors import TaskRevokedError

WAIT = 45.0
#: What runs long in each pool, and can be reached there.
LONG = {"prefork": "work", "threads": "nap", "asyncio": "doze", "solo": "nap"}


@pytest.fixture(
    params=[
        "prefork",
        "threads",
        pytest.param("asyncio", marks=pytest.mark.slow),
        pytest.param("solo", marks=pytest.mark.slow),
        pytest.param("prefork on aws", marks=pytest.mark.slow),
    ]
)
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    pool, _, where = request.param.partition(" ")
    folder = tmp_path_factory.mktemp("revoke")
    if where:
        url = request.getfixturevalue("ministack_url")
        made = Scene(
            folder, f"sqs://?endpoint_url={url}", f"dynamodb://revokes?endpoint_url={url}", "revokes"
        )
        queue, table = open_broker(made.broker), open_backend(made.backend)
        queue.create_queue(QueueSpec(made.queue, 30.0))  # type: ignore[attr-defined]
        table.create_table()  # type: ignore[attr-defined]
        queue.close()
        table.close()
    else:
        with sqlite_scene(folder, visibility_timeout=30) as made:
            pass
    made.pool = pool  # type: ignore[attr-defined]
    return made


def client(scene: Scene) -> CloudQ:
    return CloudQ("client", broker=scene.broker, backend=scene.backend, task_default_queue=scene.queue)


def test_pending_waiting_and_running(scene: Scene) -> None:
    """One worker with one place: a task runs, one waits inside the worker, one comes later, one by header."""
    pool: str = scene.pool  # type: ignore[attr-defined]
    with (
        client(scene) as app,
        scene.worker("-P", pool, "-c", "1", CLOUDQ_CONTROL_INTERVAL="0.3") as worker,
    ):

        def send(name: str, *args: Any, **options: Any) -> Any:
            return app.send_task(f"worker_app.{name}", args, **options)

        follower = f"errback-{time.time_ns()}"
        errback = app.signature("worker_app.report", options={"task_id": follower})
        running = send(LONG[pool], *((1, 60.0) if pool == "prefork" else (60.0,)), link_error=errback)
        eventually("it runs", lambda: scene.runs("start", running.id))
        waiting = send("work", 2)
        tenant = send("work", 3, headers={"tenant": "evil"})
        time.sleep(0.5)  # it is in the worker's hands by now, or stays in the queue: both must do

        waiting.revoke()
        app.control.revoke_by_stamped_headers({"tenant": ["evil", "worse"]})
        assert waiting.state == "REVOKED"
        time.sleep(1.0)
        running.revoke(terminate=True)

        with pytest.raises(TaskRevokedError, match="terminated"):
            running.get(timeout=WAIT)
        assert app.AsyncResult(follower).get(timeout=WAIT) == [running.id]
        with pytest.raises(TaskRevokedError, match="revoked"):
            tenant.get(timeout=WAIT)
        assert send("add", 2, 2).get(timeout=WAIT) == 4
        assert {run.task_id for run in scene.runs("start")} == {running.id}
        assert scene.runs("end") == []
        if pool == "asyncio":
            assert scene.runs("out", running.id)  # its finally block ran
        eventually("nothing is left", lambda: app.broker.depth(scene.queue).total == 0)
        assert worker.stop() == 0, worker.text


def test_the_command(tmp_path: Any) -> None:
    with sqlite_scene(tmp_path) as scene, client(scene) as app:
        first, second = (app.send_task("worker_app.work", (n,)) for n in range(2))

        done = scene.cloudq("revoke", first.id, second.id, "--json")
        assert json.loads(done.stdout) == {
            "tasks": {first.id: "REVOKED", second.id: "REVOKED"},
            "headers": {},
        }
        told = scene.cloudq("revoke", "--header", "tenant=evil", "--header", "level=7", "--terminate")
        assert "tasks with tenant = evil: not run" in told.stdout
        third = app.send_task("worker_app.work", (3,), headers={"level": 7})
        last = app.send_task("worker_app.add", (1, 2))
        assert scene.cloudq("revoke").returncode == 2
        assert "NAME=VALUE" in scene.cloudq("revoke", "--header", "tenant").stderr

        # the worker comes later, and knows before its first message
        with scene.worker("-P", "threads", CLOUDQ_CONTROL_INTERVAL="30"):
            assert last.get(timeout=WAIT) == 3
            eventually("REVOKED", lambda: third.state == "REVOKED")
        assert scene.runs("start") == []
        assert "has ended already: SUCCESS" in scene.cloudq("revoke", last.id).stdout
