"""A worker process whose machine is about to go away."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from metadata import Metadata, metadata
from worker_processes import Scene, WorkerProcess, eventually, sqlite_scene

from cloudq import CloudQ


@pytest.fixture
def ec2() -> Iterator[Metadata]:
    with metadata() as server:
        yield server


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with sqlite_scene(tmp_path, visibility_timeout=60) as made:
        yield made


def worker(scene: Scene, ec2: Metadata, ready: bool = True) -> WorkerProcess:
    return scene.worker(
        *("-P", "threads", "-c", "1", "--watch-interruption"),
        ready=ready,
        AWS_EC2_METADATA_SERVICE_ENDPOINT=ec2.url,
        AWS_ENDPOINT_URL_AUTO_SCALING=ec2.url,
        AWS_ACCESS_KEY_ID="k",
        AWS_SECRET_ACCESS_KEY="s",
    )


@pytest.mark.slow
def test_scale_in_waits_for_the_running_task(scene: Scene, ec2: Metadata) -> None:
    with CloudQ("client", broker=scene.broker, backend=scene.backend) as app, worker(scene, ec2) as running:
        task = app.send_task("worker_app.nap", (7.0,), queue=scene.queue)
        eventually("it runs", lambda: scene.runs("start", task.id))
        ec2.values["autoscaling/target-lifecycle-state"] = "Terminated"
        eventually("it stops", lambda: "stopping (its Auto Scaling group" in running.text)
        assert "CompleteLifecycleAction" not in [name for name, _ in ec2.calls]
        assert running.wait() == 4, running.text
        assert task.get(timeout=1) == "rested"

    assert ec2.calls[-1] == (
        "CompleteLifecycleAction",
        {
            "AutoScalingGroupName": "workers",
            "LifecycleHookName": "drain",
            "InstanceId": "i-0123",
            "LifecycleActionResult": "CONTINUE",
        },
    )


def test_a_worker_that_is_started_on_a_machine_about_to_go_takes_nothing(scene: Scene, ec2: Metadata) -> None:
    ec2.values["spot/instance-action"] = '{"action": "terminate", "time": "2026-01-02T03:04:05Z"}'
    with CloudQ("client", broker=scene.broker, backend=scene.backend) as app:
        app.send_task("worker_app.add", (1, 2), queue=scene.queue)
        with worker(scene, ec2, ready=False) as running:
            assert running.wait() == 4, running.text
        assert app.broker.depth(scene.queue).visible == 1
        assert "consuming" not in running.text
