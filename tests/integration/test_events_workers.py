"""Events of a real prefork worker: on its command line, on its port, on its stdout."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest
import servers
from worker_processes import eventually, sqlite_scene

from cloudq import CloudQ

WAIT = 20.0


def test_children_s_events_reach_every_sink(tmp_path: Path) -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    port = servers.free_port()
    with (
        sqlite_scene(tmp_path) as scene,
        CloudQ("client", broker=scene.broker, backend=scene.backend) as app,
        scene.worker(
            "-P", "prefork", "-c", "2", "-E", "--metrics-port", str(port), "--events-log", "json"
        ) as worker,
    ):
        results = [app.send_task("worker_app.add", (n, n)) for n in range(5)]
        assert [each.get(timeout=WAIT) for each in results] == [0, 2, 4, 6, 8]
        dying = app.send_task("worker_app.boom")
        dying.get(timeout=WAIT, propagate=False)

        shown = scene.cloudq("events", "--back", "60", "--timeout", "3", "--type", "task-*", "--json")
        events = [json.loads(line) for line in shown.stdout.splitlines()]
        for result in results:
            types = [each["type"] for each in events if each["uuid"] == result.id]
            assert types == ["task-received", "task-started", "task-succeeded"]
        told = scene.cloudq("events", "--back", "60", "-n", "1", "--type", "task-failed").stdout
        assert f"worker_app.boom[{dying.id}]" in told
        assert "exception=ValueError('no good')" in told
        assert scene.cloudq("events", "--type", "task-dance").returncode == 2

        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        samples = {
            (sample.labels.get("type"), sample.labels.get("task")): sample.value
            for family in parser.text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "cloudq_events_total"
        }
        assert samples["task-succeeded", "worker_app.add"] == 5
        assert samples["task-failed", "worker_app.boom"] == 1

        def logged() -> bool:
            lines = [json.loads(line) for line in worker.text.splitlines() if line.startswith("{")]
            return any(each["type"] == "task-failed" and each["uuid"] == dying.id for each in lines)

        eventually("its log says so too", logged)
        assert worker.stop() == 0, worker.text
