"""Workflows on real workers that are killed again and again: every one of them ends, with the right value."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from worker_processes import Scene, WorkerProcess, sqlite_scene

from cloudq import CloudQ, chain, chord, group

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from canvas import app_tasks

WORKFLOWS = 20
KILLS = 5


def worker(scene: Scene, number: int, pool: str) -> WorkerProcess:
    command = [sys.executable, "-m", "cloudq", "worker", "-A", "canvas.corpus_app:app", "-Q", scene.queue]
    return WorkerProcess(
        [*command, "-P", pool, "-c", "3"], scene.env(), scene.folder, scene.folder / f"killed-{number}.log"
    )


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_workflows_survive_the_death_of_every_worker(pool: str, tmp_path: Path) -> None:
    with sqlite_scene(tmp_path, visibility_timeout=3, max_receive_count=100) as scene:
        app = CloudQ("corpus", broker=scene.broker, backend=scene.backend, task_default_queue=scene.queue)
        app_tasks.declare(app)
        add, total, ident = (app.tasks[name] for name in ("add", "total", "ident"))
        results = []
        for n in range(WORKFLOWS):
            header = group(chain(add.s(n, k), add.s(1)) for k in range(6))
            results.append((chord(header, total.s() | add.s(1)).delay(), 6 * n + 15 + 6 + 1))
            results.append(
                (chain(ident.s(n), group(add.s(1), add.s(2)), total.s(), add.s(1)).delay(), 2 * n + 4)
            )
        with app:
            killed = 0
            for number in range(KILLS):
                with worker(scene, number, pool) as mortal:
                    mortal.wait_ready()
                    time.sleep(0.15 + 0.1 * number)
                    killed += mortal.process.poll() is None
                # leaving the block kills it and its children with SIGKILL
            assert killed == KILLS
            with worker(scene, KILLS, pool) as last:
                last.wait_ready()
                for result, value in results:
                    assert result.get(timeout=60) == value
            assert sum(result.parent is not None for result, _ in results) == len(results)
