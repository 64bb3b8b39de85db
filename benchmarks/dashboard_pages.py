"""How long the dashboard's pages take with 100,000 tasks in the history (SQLite). ``python benchmarks/dashboard_pages.py``"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from pathlib import Path

from cloudq import CloudQ
from cloudq.control.roster import WorkerInfo
from cloudq.dashboard import make_app
from cloudq.monitoring.history import HistorySink

PAGES = {
    "queues": "/",
    "workers": "/workers",
    "tasks, the newest 50": "/tasks",
    "tasks, all failures": "/tasks?state=FAILURE",
    "tasks of a name that is rare": "/tasks?name=shop.rare",
    "tasks by a text that nothing has": "/tasks?text=nowhere",
    "one task": "/tasks/task-50000",
    "a task nobody knows": "/tasks/nobody",
}


class Shifted:
    """The clock of a day that goes by quickly."""

    def __init__(self) -> None:
        self.now = time.time()

    def time(self) -> float:
        return self.now


def seed(app: CloudQ, count: int, spread: float) -> None:
    """``count`` ends of tasks, evenly over the last ``spread`` seconds, in documents as workers write them."""
    clock, end = Shifted(), time.time()
    sink = HistorySink(app.need_store().backend, "default", "worker1@shop", clock, 604_800.0)  # type: ignore[arg-type]
    for n in range(count):
        clock.now = end - spread * (count - n) / count
        failed = n % 10 == 0
        sink.take(
            [
                {
                    "type": "task-failed" if failed else "task-succeeded",
                    "uuid": f"task-{n}",
                    "name": "shop.rare" if n % 20_000 == 5 else f"shop.tasks.t{n % 40}",
                    "hostname": "worker1@shop",
                    "timestamp": clock.now,
                    "runtime": 0.012,
                    "args": f"[{n}, 'a customer']",
                    "kwargs": "{}",
                    **(
                        {"exception": "ValueError('no')", "traceback": "Traceback ...\n" * 20}
                        if failed
                        else {"result": "'sent'"}
                    ),
                }
            ]
        )
        if n % 200 == 199:
            sink.flush()
    sink.flush()


def main() -> None:
    """Seed, ask for each page, print a table."""
    wanted = argparse.ArgumentParser(description=__doc__)
    wanted.add_argument("--tasks", type=int, default=100_000)
    wanted.add_argument("--rounds", type=int, default=7)
    given = wanted.parse_args()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from starlette.testclient import TestClient
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'shop.db'}"
        with CloudQ("shop", broker=url, backend=url, task_default_queue="orders") as app:
            begun = time.perf_counter()
            seed(app, given.tasks, 86_400.0)
            now = time.time()
            app.control.roster.beat(
                WorkerInfo("worker1@shop", "shop", 1, "h", "threads", 4, ("orders",), now, now, 600.0, 1.0)
            )
            print(f"{given.tasks:,} tasks seeded in {time.perf_counter() - begun:.1f} s\n")
            print("| Page | CPU, ms | median, ms | slowest, ms | kB |\n| --- | ---: | ---: | ---: | ---: |")
            with TestClient(make_app(app), base_url="http://localhost", client=("127.0.0.1", 1)) as client:
                for name, path in PAGES.items():
                    times, work = [], []
                    for _ in range(given.rounds):
                        begun, used = time.perf_counter(), time.process_time()
                        response = client.get(path)
                        times.append((time.perf_counter() - begun) * 1000)
                        work.append((time.process_time() - used) * 1000)
                    took = (
                        f"{statistics.median(work):.0f} | {statistics.median(times):.0f} | {max(times):.0f}"
                    )
                    print(f"| {name} | {took} | {len(response.content) / 1000:.0f} |")


if __name__ == "__main__":
    main()
