"""``cloudq schedule``: periodic tasks listed and changed from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cloudq import CloudQ
from cloudq.cli.main import cli

SCHEDULE = {
    "second": {"task": "demo.work", "schedule": 1},
    "even": {"task": "demo.work", "schedule": {"every": 2}},
}


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "schedule_demo.py").write_text(
        "from cloudq import CloudQ\napp = CloudQ('demo')\n@app.task(name='demo.work')\ndef work(x: int = 0) -> int: return x\n"
    )
    url = f"sqlite:///{tmp_path / 'c.db'}"
    for name, value in {
        "CLOUDQ_APP": "schedule_demo:app",
        "CLOUDQ_BROKER_URL": url,
        "CLOUDQ_RESULT_BACKEND": url,
        "CLOUDQ_BEAT_SCHEDULE": json.dumps(SCHEDULE),
        "COLUMNS": "200",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "schedule_demo", raising=False)
    return url


def schedule(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(cli, ["schedule", *arguments])
    assert done.exit_code == code, done.output
    return done.output


def test_entries_are_added_paused_listed_and_run(url: str) -> None:
    added = schedule("add", "nightly", "--task", "demo.work", "--cron", "30 2 * * *", "--args", "[7]")
    assert "next run" in added
    assert "no task elsewhere" in schedule(
        "add", "sun", "--task", "elsewhere", "--solar", "sunset,48.85,2.35"
    )
    schedule("pause", "second")

    listed = {row["name"]: row for row in json.loads(schedule("list", "--json"))}

    assert {name: (row["state"], row["from"]) for name, row in listed.items()} == {
        "second": ("paused", "code"),
        "even": ("on", "code"),
        "nightly": ("on", "store"),
        "sun": ("on", "store"),
    }
    assert listed["second"]["next"] is None
    assert listed["nightly"]["args"] == [7]
    assert "30 2 * * *" in schedule("list")
    schedule("resume", "second")
    schedule("remove", "sun")
    assert {row["state"] for row in json.loads(schedule("list", "--json"))} == {"on"}

    task_id = schedule("run-now", "nightly").strip()
    with CloudQ("reader", broker=url) as app:
        [delivery] = app.broker.receive("cloudq", 1, 0, 30)
    assert json.loads(delivery.body)["id"] == task_id


def test_what_is_left_to_eventbridge_is_shown_as_such(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDQ_SCHEDULE_SYNC", "true")
    schedule("add", "minutes", "--task", "demo.work", "--every", "300")

    listed = {row["name"]: row["state"] for row in json.loads(schedule("list", "--json"))}

    assert listed == {"second": "on", "even": "on", "minutes": "EventBridge"}


@pytest.mark.parametrize(
    ("arguments", "says", "code"),
    [
        (["remove", "evn"], "did you mean 'even'", 1),
        (["remove", "even"], "declared in code", 1),
        (["add", "even", "--task", "t", "--every", "5"], "declared in code", 1),
        (["add", "x", "--task", "t", "--cron", "0 0 31 feb *"], "never comes", 1),
        (["add", "x", "--task", "t", "--solar", "sunset"], "EVENT,LAT,LON", 1),
        (["add", "x", "--task", "t", "--every", "5", "--timezone", "Mars"], "not known", 1),
        (["add", "x", "--task", "t", "--every", "5", "--catchup", "no"], "latest, all, skip", 1),
        (["add", "x", "--task", "t"], "one of --cron", 2),
        (["add", "x", "--task", "t", "--every", "5", "--args", "{}"], "JSON array", 2),
        (["pause", "nothing"], "no periodic task", 1),
        (["run-now", "nothing"], "no periodic task", 1),
    ],
)
def test_what_cannot_be_is_refused(url: str, arguments: list[str], says: str, code: int) -> None:
    assert says in " ".join(schedule(*arguments, code=code).split())
