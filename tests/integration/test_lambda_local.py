"""``cloudq lambda invoke`` and ``serve``: real processes, restarted and killed as Lambda's are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cloudq import CloudQ

TASKS = """
import os, time
from cloudq import CloudQ

app = CloudQ("shop")


@app.task
def add(x, y):
    return x + y


@app.task(bind=True)
def die_once(self):
    if self.request.receive_count == 1:
        os._exit(9)
    return "alive"


@app.task
def sleep(seconds):
    time.sleep(seconds)


def echo(event, context):
    return {"got": event, "left": context.get_remaining_time_in_millis() > 0}


def hang(event, context):
    time.sleep(60)


def fail(event, context):
    raise RuntimeError("not today")
"""


class Project:
    def __init__(self, folder: Path) -> None:
        (folder / "shop.py").write_text(TASKS)
        self.folder = folder
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("CLOUDQ_")},
            "CLOUDQ_BROKER_URL": f"sqlite:///{folder}/q.db?visibility_timeout=2",
            "CLOUDQ_RESULT_BACKEND": f"sqlite:///{folder}/r.db",
            "CLOUDQ_APP": "shop:app",
        }
        self.app = CloudQ(
            "c", broker=self.env["CLOUDQ_BROKER_URL"], backend=self.env["CLOUDQ_RESULT_BACKEND"]
        )

    def run(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cloudq", "lambda", *words],
            cwd=self.folder,
            env=self.env,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )


@pytest.fixture
def project(tmp_path: Path) -> Any:
    found = Project(tmp_path)
    yield found
    found.app.close()


def test_invoke_a_task(project: Project) -> None:
    done = project.run("invoke", "--task", "shop.add", "--args", "[1, 2]")
    line, answer = done.stdout.splitlines()
    assert (done.returncode, json.loads(answer)) == (0, {"batchItemFailures": []}), done.stderr
    told = json.loads(line)
    assert told["outcome"] == "SUCCESS"
    assert project.app.AsyncResult(told["task_id"]).get(timeout=1) == 3


def test_invoke_any_handler_with_an_event(project: Project) -> None:
    done = project.run("invoke", "--handler", "shop.echo", "--event", "-", stdin='{"a": 1}')
    assert json.loads(done.stdout) == {"got": {"a": 1}, "left": True}, done.stderr


@pytest.mark.parametrize(
    ("words", "said", "code"),
    [
        (["--handler", "shop.fail", "--event", "-"], "RuntimeError: not today", 1),
        (["--handler", "shop.hang", "--event", "-", "--timeout", "0.5"], "killed at the end", 1),
        (["--handler", "shop.none", "--event", "-"], "no attribute 'none'", 1),
        (["--task", "shop.die_once"], "exit code 9", 1),
        (["--task", "shop.add"], "missing", 2),
        ([], "--event", 2),
    ],
)
def test_what_goes_wrong_is_said(project: Project, words: list[str], said: str, code: int) -> None:
    done = project.run("invoke", *words, stdin="{}")
    assert said in done.stderr
    assert done.returncode == code


def test_serve_drives_the_function_and_survives_its_crash(project: Project) -> None:
    send = project.app.send_task
    added = [send("shop.add", (n, n)) for n in range(20)]
    died = send("shop.die_once")
    done = project.run("serve", "--timeout", "2", "--batch-size", "5", "--stop-when-idle", "4")

    assert done.returncode == 0, done.stderr
    assert [each.get(timeout=1) for each in added] == [2 * n for n in range(20)]
    assert died.get(timeout=1) == "alive"
    assert "crash: the function's process ended: exit code 9" in done.stderr
    assert done.stderr.count("cold start") == 2, "the first process and the one after the crash"
    assert project.app.broker.depth("cloudq").total == 0
