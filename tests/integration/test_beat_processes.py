"""Real ``cloudq beat`` processes: SIGKILL at random moments, and every slot is run once (issue 6)."""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from worker_processes import Scene, WorkerProcess, eventually, sqlite_scene

from cloudq.backends.open import open_backend
from cloudq.beat.ticker import tick_id
from cloudq.brokers.base import QueueSpec
from cloudq.brokers.open import open_broker

LEASE = 1.0
SCHEDULE = {
    "second": {"task": "worker_app.work", "schedule": 1, "args": [1, 0.0], "catchup": "all"},
    "even": {"task": "worker_app.work", "schedule": {"every": 2}, "args": [2, 0.0], "catchup": "all"},
}


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Scene]:
    with sqlite_scene(tmp_path) as scene:
        yield scene


@pytest.fixture
def aws(tmp_path: Path, ministack_url: str, unique: str) -> Iterator[Scene]:
    options = f"?endpoint_url={ministack_url}"
    scene = Scene(tmp_path, f"sqs://{options}", f"dynamodb://{unique}{options}", unique)
    queue, table = open_broker(scene.broker), open_backend(scene.backend)
    queue.create_queue(QueueSpec(scene.queue, 30.0))  # type: ignore[attr-defined]
    table.create_table()  # type: ignore[attr-defined]
    yield scene
    table.delete_table()  # type: ignore[attr-defined]
    table.close()
    queue.close()


def beat(scene: Scene, number: int) -> WorkerProcess:
    command = [sys.executable, "-m", "cloudq", "beat", "-A", "worker_app:app", "--lease", str(LEASE)]
    env = scene.env(CLOUDQ_BEAT_SCHEDULE=json.dumps(SCHEDULE))
    return WorkerProcess(
        [*command, "--max-interval", "0.5"], env, scene.folder, scene.folder / f"beat-{number}.log"
    )


def storm(scene: Scene, kills: int, seed: int) -> None:
    rng, begun = random.Random(seed), int(time.time())
    worker = scene.worker("-P", "threads", "-c", "2")
    beats = [beat(scene, number) for number in range(2)]
    started = len(beats)
    try:
        eventually("runs begin", lambda: scene.runs("end"))
        for _ in range(kills):
            time.sleep(rng.uniform(0.8, 1.6))
            leading = max(beats, key=lambda each: each.text.rfind("sent "))
            victim = beats.index(leading)
            leading.kill()
            beats[victim] = beat(scene, started)
            started += 1
        eventually("a dozen have run", lambda: len(scene.runs("end")) >= 12)
        last = time.time()
        ids = {
            tick_id("proof", "second", float(int(last))),
            tick_id("proof", "even", float(int(last) // 2 * 2)),
        }
        eventually("all slots have run", lambda: ids <= {run.task_id for run in scene.runs("end")})
        for each in beats:
            eventually("it beats", lambda each=each: "entries" in each.text)  # type: ignore[misc]
            assert each.stop() == 0, each.text
        assert worker.stop() == 0
    finally:
        for each in [worker, *beats]:
            each.wipe_out()
    runs = Counter(run.task_id for run in scene.runs("end"))
    for name, step in (("second", 1), ("even", 2)):
        times = {
            slot: runs[tick_id("proof", name, float(slot))]
            for slot in range(begun, int(last) + 1)
            if slot % step == 0
        }
        first = min(slot for slot, count in times.items() if count)
        found = {slot: count for slot, count in times.items() if slot >= first}
        assert set(found.values()) == {1}, (name, found)
        assert len(found) >= 3


def test_every_slot_is_run_once_while_leading_beats_are_killed_on_sqlite(sqlite: Scene) -> None:
    storm(sqlite, kills=3, seed=6)


@pytest.mark.slow
def test_every_slot_is_run_once_while_leading_beats_are_killed_on_aws(aws: Scene) -> None:
    storm(aws, kills=2, seed=7)
