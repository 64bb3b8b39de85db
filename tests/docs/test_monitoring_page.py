"""The costs that docs/monitoring.md states are those that are measured."""

import re
from pathlib import Path

from cloudq import CloudQ
from cloudq.backends.open import open_backend
from cloudq.clock import SYSTEM_CLOCK
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
