"""Limits, claims and batches survive SIGKILL: workers are killed at random moments while limited, idempotent and
batch tasks run; all end, none is buried, places and claims of the dead are used again (issue 3)."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest
from worker_processes import WorkerProcess, eventually, sqlite_scene

from cloudq import CloudQ

SEED = int(os.environ.get("CLOUDQ_TEST_SEED", "20261121"))
WORKERS = 3
KILLS = 4
ENV = {"CLOUDQ_TASK_LEASE_TIME": "2"}


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_what_is_limited_claimed_or_batched_survives_kills(pool: str, tmp_path: Path) -> None:
    rng = random.Random(SEED)
    with (
        sqlite_scene(tmp_path, visibility_timeout=2) as scene,
        CloudQ("proof", broker=scene.broker, backend=scene.backend, task_default_queue=scene.queue) as app,
    ):
        paced = [app.send_task("worker_app.paced") for _ in range(60)]
        narrow = [app.send_task("worker_app.narrow", (0.2,)) for _ in range(20)]
        paid = [app.send_task("worker_app.pay", (n % 10, 0.1)) for n in range(20)]
        batch = [app.send_task("worker_app.gather", (n,)) for n in range(30)]
        every = [each.id for each in (*paced, *narrow, *paid, *batch)]
        workers: list[WorkerProcess] = []
        try:
            workers = [scene.worker("-P", pool, "-c", "3", ready=False, **ENV) for _ in range(WORKERS)]
            for number in range(KILLS):
                if number == 0:
                    eventually("tasks run", lambda: scene.runs("start"))
                time.sleep(rng.uniform(0.3, 1.5))
                chosen = rng.randrange(WORKERS)
                workers[chosen].kill()
                workers[chosen] = scene.worker("-P", pool, "-c", "3", ready=False, **ENV)

            def ended() -> bool:
                time.sleep(0.2)
                records = app.need_store().read_many(every)
                return len(records) == len(every) and all(each.final for each in records.values())

            eventually("all end", ended, timeout=80.0)
        finally:
            for each in workers:
                each.wipe_out()
        records = app.need_store().read_many(every)
        assert {each.state for each in records.values()} == {"SUCCESS"}
        for order in range(10):  # one outcome for each key, whoever had to do it how often
            assert len({records[each.id].result for each in paid[order::10]}) == 1
        assert [records[each.id].result for each in batch] == list(range(30))
        dead = app.broker.describe(scene.queue).dead_letter_queue
        assert dead is not None
        assert app.broker.depth(dead).total == 0
