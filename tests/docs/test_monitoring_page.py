"""The costs that docs/monitoring.md states are those that are measured."""

import re
import threading
from pathlib import Path

from cloudq import CloudQ
from cloudq.backends.open import open_backend
from cloudq.clock import SYSTEM_CLOCK
from cloudq.monitoring import history, stream
from cloudq.testing.stores import Counting
from cloudq.testing.workers import running_worker
from cloudq.worker.steering import FAR, NEAR

PAGE = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text("utf-8")


def measured(level: str) -> tuple[dict[str, int], dict[str, int]]:
    """Calls of one look at the board and of one sign of life."""
    counting = Counting(open_backend("memory://", SYSTEM_CLOCK))
    app = CloudQ("cost", broker="memory://", backend=counting, monitoring=level, control_interval=3600.0)
    app.conf.worker_heartbeat_interval = 3600.0
    with app, running_worker(app) as worker:
        counting.calls.clear()
        worker.steering.look()
        look = dict(counting.calls)
        counting.calls.clear()
        if worker.steering.on:
            worker.steering.beat()
        return look, dict(counting.calls)


def test_batches_of_events_and_history_are_as_rare_as_stated() -> None:
    found = re.search(r"\| `tasks`.*up to (\d+) writes", PAGE)
    assert found is not None
    assert float(found[1]) == 60 / stream.FLUSH[0]
    found = re.search(r"\| `history`.*up to (\d+) writes", PAGE)
    assert found is not None
    assert float(found[1]) == 60 / history.FLUSH[0]


def test_tasks_cost_no_write_of_their_own() -> None:
    """A hundred tasks at level history: two documents of events and entries, not two hundred."""
    counting = Counting(open_backend("memory://", SYSTEM_CLOCK))
    app = CloudQ("cost", broker="memory://", backend=counting, monitoring="history", control_interval=3600.0)
    app.conf.update(worker_heartbeat_interval=3600.0, task_ignore_result=True)
    ran = threading.Semaphore(0)

    @app.task(name="noop")
    def noop() -> None:
        ran.release()

    with app, running_worker(app):
        app.send_many(noop.s() for _ in range(100))
        for _ in range(100):
            assert ran.acquire(timeout=30)
    monitored = [key for key in counting.written if key.startswith(("events/", "history/"))]
    assert 2 <= len(monitored) <= 20
    assert not [key for key in counting.written if key.startswith("task/")]


def test_the_table_of_costs() -> None:
    assert measured("off") == ({}, {})
    assert measured("workers") == ({"read": 1}, {"write": 1})
    for looks, beats, says in (
        (*FAR, r"\| `workers`.*\| (\d+) reads, (\d+) writes \|"),
        (*NEAR, r"on one of this machine it is (\d+) reads and (\d+) writes"),
    ):
        found = re.search(says, PAGE)
        assert found is not None
        assert (float(found[1]), float(found[2])) == (60 / looks, 60 / beats)
