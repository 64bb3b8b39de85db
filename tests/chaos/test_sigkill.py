"""Nothing is lost when workers are killed: SIGKILL at random moments while thousands of tasks run (issue 2).

Each run is drawn from a seed; ``CLOUDQ_TEST_SEED`` chooses another one.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from worker_processes import Scene, WorkerProcess, eventually, sqlite_scene

from cloudq import CloudQ
from cloudq.backends.open import open_backend
from cloudq.brokers.base import QueueSpec
from cloudq.brokers.open import open_broker

SEED = int(os.environ.get("CLOUDQ_TEST_SEED", "20261121"))
WORKERS = 3
#: Messages come back soon after their worker was killed (seconds).
VISIBILITY = 2.0


def storm(
    scene: Scene,
    pool: str,
    tasks: int,
    kills: int,
    concurrency: int,
    pause: tuple[float, float],
    task_time: float,
) -> str:
    """Run ``tasks`` under ``kills`` random kills; every one of them must end well. Returns a report."""
    rng = random.Random(SEED)
    app = CloudQ("proof", broker=scene.broker, backend=scene.backend, task_default_queue=scene.queue)
    arguments = ["-P", pool, "-c", str(concurrency), "--visibility-timeout", str(VISIBILITY)]
    workers: list[WorkerProcess] = []
    with app:
        results = app.send_many(
            app.signature("worker_app.work", (number, task_time)) for number in range(tasks)
        )
        try:
            workers = [scene.worker(*arguments, ready=False) for _ in range(WORKERS)]
            for done in range(kills):
                time.sleep(rng.uniform(*pause))
                chosen = rng.randrange(WORKERS)
                if done == 0:  # the first one strikes while tasks run, not while Python starts
                    eventually("tasks run", lambda: scene.runs("start"))
                    chosen = next(n for n, each in enumerate(workers) if _at_work(scene, each))
                workers[chosen].kill()
                workers[chosen] = scene.worker(*arguments, ready=False)
            eventually("all end", lambda: all_ended(app, [each.id for each in results]), timeout=100.0)
            for each in workers:
                each.wait_ready()
                assert each.stop() == 0, each.text[-2000:]
        finally:
            for each in workers:
                each.wipe_out()
        records = app.store.read_many([each.id for each in results])  # type: ignore[union-attr]
        assert [records[each.id].result for each in results] == list(range(tasks))
        depth = app.broker.depth(scene.queue)
        dead = app.broker.depth(app.broker.describe(scene.queue).dead_letter_queue or "")
    assert depth.total == 0, depth
    assert dead.total == 0, dead
    return account(scene, [each.id for each in results], kills)


def _at_work(scene: Scene, worker: WorkerProcess) -> bool:
    mine = {worker.pid, *worker.children()}
    return any(run.pid in mine for run in scene.runs("start"))


def all_ended(app: CloudQ, ids: list[str]) -> bool:
    time.sleep(0.2)
    records = app.store.read_many(ids)  # type: ignore[union-attr]
    failed = [each for each in records.values() if each.failed]
    assert not failed, failed[:3]
    return len(records) == len(ids) and all(each.state == "SUCCESS" for each in records.values())


def account(scene: Scene, ids: list[str], kills: int) -> str:
    """Every task was run to its end at least once; how many more than once is the price of the kills."""
    starts = Counter(run.task_id for run in scene.runs("start"))
    ends = Counter(run.task_id for run in scene.runs("end"))
    assert set(ends) == set(ids)
    again = sum(starts.values()) - len(ids)
    whole = sum(ends.values()) - len(ids)
    report = f"{len(ids)} tasks, {kills} kills: none lost; {again} started again, {whole} of them after they had ended"
    print(report)  # shown by pytest -s, and when the test fails
    return report


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Scene]:
    with sqlite_scene(tmp_path) as scene:
        queue = open_broker(scene.broker)
        queue.create_queue(QueueSpec(scene.queue, VISIBILITY, max_receive_count=100))  # type: ignore[attr-defined]
        queue.close()
        yield scene


@pytest.fixture
def aws(tmp_path: Path, ministack_url: str, unique: str, request: pytest.FixtureRequest) -> Iterator[Scene]:
    scene = Scene(
        tmp_path,
        f"sqs://?endpoint_url={ministack_url}",
        f"dynamodb://{unique}?endpoint_url={ministack_url}{getattr(request, 'param', '')}",
        unique,
    )
    queue, table = open_broker(scene.broker), open_backend(scene.backend)
    # killed again and again, a healthy message is received often: the redrive limit must allow for it
    queue.create_queue(QueueSpec(scene.queue, VISIBILITY, max_receive_count=100))  # type: ignore[attr-defined]
    table.create_table()  # type: ignore[attr-defined]
    yield scene
    table.delete_table()  # type: ignore[attr-defined]
    table.close()
    queue.close()


@pytest.mark.parametrize("pool", ["threads", pytest.param("prefork", marks=pytest.mark.slow)])
def test_no_task_is_lost_when_workers_on_sqlite_are_killed(sqlite: Scene, pool: str) -> None:
    storm(sqlite, pool, tasks=200, kills=4, concurrency=2, pause=(0.1, 0.6), task_time=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("aws", "kills"),
    [("", 4), ("&group_commit=true", 2)],
    indirect=["aws"],
    ids=["one by one", "written together"],
)
def test_no_task_is_lost_when_workers_on_aws_are_killed(aws: Scene, kills: int) -> None:
    storm(aws, "threads", tasks=50 * kills, kills=kills, concurrency=4, pause=(0.2, 0.8), task_time=0.02)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_no_task_is_lost_in_a_long_storm_on_sqlite(sqlite: Scene, pool: str) -> None:
    storm(sqlite, pool, tasks=2000, kills=20, concurrency=3, pause=(0.3, 1.2), task_time=0.05)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("pool", [pytest.param("threads", marks=pytest.mark.long), "prefork"])
def test_no_task_is_lost_in_a_long_storm_on_aws(aws: Scene, pool: str) -> None:
    storm(aws, pool, tasks=2000, kills=20, concurrency=3, pause=(0.3, 1.2), task_time=0.05)
