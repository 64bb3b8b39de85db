"""``cloudq schedule sync`` on emulators: what is made is found again; ministack really sends it (issue 6)."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner
from worker_processes import eventually

from cloudq import CloudQ
from cloudq.aws.port import Call
from cloudq.brokers.base import QueueSpec
from cloudq.cli.main import cli

ROLE = "arn:aws:iam::000000000000:role/scheduler"
SCHEDULE = {
    "minute": {"task": "sync.work", "schedule": 60, "args": [1]},
    "nine": {
        "task": "sync.work",
        "schedule": {"crontab": {"minute": 0, "hour": 9}, "tz": "Europe/Berlin"},
        "jitter": 60,
    },
    "fifo": {
        "task": "sync.work",
        "schedule": "* * * * *",
        "options": {"queue": "QUEUE.fifo", "group_id": "g"},
    },
}


class Scene:
    """An app in a module of its own, on one emulator."""

    def __init__(self, url: str, folder: Path, unique: str, patch: pytest.MonkeyPatch) -> None:
        self.module = f"sync_{unique}"
        self.patch = patch
        (folder / f"{self.module}.py").write_text(
            f"from cloudq import CloudQ\napp = CloudQ({unique!r})\n@app.task(name='sync.work')\ndef work(x=0): ...\n"
        )
        patch.syspath_prepend(str(folder))
        for name, value in {
            "APP": f"{self.module}:app",
            "BROKER_URL": f"sqs://?endpoint_url={url}",
            "RESULT_BACKEND": "disabled://",
            "TASK_DEFAULT_QUEUE": unique,
            "SCHEDULER_ROLE_ARN": ROLE,
            "SCHEDULER_GROUP": unique,
        }.items():
            patch.setenv(f"CLOUDQ_{name}", value)
        self.queue = unique
        self.say(SCHEDULE)

    def say(self, schedule: dict[str, Any]) -> None:
        """What the app's settings say from now on."""
        self.patch.setenv("CLOUDQ_BEAT_SCHEDULE", json.dumps(schedule).replace("QUEUE", self.queue))
        self.patch.delitem(__import__("sys").modules, self.module, raising=False)

    def sync(self, *arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(cli, ["schedule", "sync", *arguments])
        assert done.exit_code == code, done.output
        return done.output

    def app(self) -> CloudQ:
        return CloudQ(self.queue)


@pytest.fixture(params=["moto", "ministack"])
def scene(
    request: pytest.FixtureRequest, tmp_path: Path, unique: str, monkeypatch: pytest.MonkeyPatch
) -> Scene:
    url = request.getfixturevalue(f"{request.param}_url")
    found = Scene(url, tmp_path, unique, monkeypatch)
    with found.app() as app:
        for queue in (unique, f"{unique}.fifo"):
            app.broker.create_queue(QueueSpec(queue, 30.0))  # type: ignore[attr-defined]
    return found


def test_a_plan_is_shown_carried_out_and_then_empty(scene: Scene) -> None:
    shown = scene.sync()
    assert "+ schedule group" in shown
    assert "nothing was changed" in shown
    assert shown.count("create") == 3

    assert scene.sync("--yes").count("done: create") == 3
    assert "nothing to change" in scene.sync()

    changed = {**SCHEDULE, "seconds": {"task": "sync.work", "schedule": 5}}
    changed["nine"] = {**SCHEDULE["nine"], "enabled": False}
    del changed["minute"]
    scene.say(changed)
    plan = json.loads(scene.sync("--json", code=1))
    assert {each["entry"]: each["kind"] for each in plan["changes"]} == {
        "nine": "update",
        "fifo": "keep",
        "minute": "delete",
    }
    assert [field["field"] for each in plan["changes"] for field in each["differences"]] == ["State"]
    assert plan["refused"][0]["entry"] == "seconds"
    assert "REFUSED seconds" in scene.sync("--yes", code=1)
    scene.patch.setenv("CLOUDQ_SCHEDULE_SYNC", "true")
    scene.say(changed)
    assert "left to beat seconds" in scene.sync()
    scene.say({})
    assert scene.sync("--yes").count("done: delete") == 2
    assert "nothing to change" in scene.sync()


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_synced_schedules_really_send_tasks(
    ministack_url: str, tmp_path: Path, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(ministack_url, tmp_path, unique, monkeypatch)
    with scene.app() as app:
        for queue in (unique, f"{unique}.fifo"):
            app.broker.create_queue(QueueSpec(queue, 30.0))  # type: ignore[attr-defined]
        scene.sync("--yes")
        arrived: dict[str, Any] = {}

        def come() -> bool:
            for queue in (unique, f"{unique}.fifo"):
                for delivery in app.broker.receive(queue, 10, 0, 30):
                    arrived[queue] = (app.codec.decode(delivery.body, queue, delivery.message_id), delivery)
            time.sleep(0.5)
            return len(arrived) == 2

        eventually("both have been sent", come, timeout=150)
        plain, _ = arrived[unique]
        _, ordered = arrived[f"{unique}.fifo"]
        assert (plain.task, plain.args, plain.headers["periodic_task_name"]) == ("sync.work", (1,), "minute")
        assert ordered.group_id == "g"
        scene.say({})
        scene.sync("--yes")
        port = app.broker.port  # type: ignore[attr-defined]
        left = port.call(Call("scheduler", "ListSchedules", {"GroupName": unique}))
        assert left["Schedules"] == []
