"""What watching costs a worker: CPU per no-op task at each level of monitoring, and of an idle worker.

A worker process (threads pool, SQLite broker and store on this machine) is sent no-op tasks; its own CPU time
is divided by their number. Levels take turns, so that what else the machine does hits all alike. Then an idle
worker at each level. Its differences drown in what the machine does otherwise, so what level `workers` adds is also
counted by itself: CPU of a look at the board and of a sign of life, times how often they are due in a minute.

    .venv/bin/python benchmarks/monitoring.py [tasks] [rounds]
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cloudq.worker.steering import FAR, NEAR

LEVELS = ("off", "workers", "tasks", "history")
APP = """
from cloudq import CloudQ
app = CloudQ("bench", task_ignore_result=True)

@app.task
def noop():
    pass
"""
WORKER = """
import json, resource, sys, threading, time
from cloudq.loader import load_app
from cloudq.worker.worker import Worker

idle = float(sys.argv[1])
app = load_app("benchapp:app")
worker = Worker(app, pool="threads", concurrency=4, stop_when_idle=None if idle else 3.0)
worker.start()
before, began = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
if idle:
    threading.Timer(idle, worker.stop).start()
worker.run()
after = resource.getrusage(resource.RUSAGE_SELF)
cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
print(json.dumps({"cpu": cpu, "seconds": time.monotonic() - began, "acked": worker.disposal.acked}))
"""
#: CPU of a look and of a sign of life: seconds each, of the whole process.
SIGNS = """
import json, sys, time
from cloudq.loader import load_app
from cloudq.worker.worker import Worker

app = load_app("benchapp:app")
app.conf.control_interval = app.conf.worker_heartbeat_interval = 3600.0
worker = Worker(app, pool="threads", concurrency=4)
worker.start()
found = {}
for name, call in (("look", worker.steering.look), ("sign", worker.steering.beat)):
    for times in (50, 1000):  # the first ones open connections
        before = time.process_time()
        for _ in range(times):
            call()
        found[name] = (time.process_time() - before) / times
worker.stop()
worker.run()
print(json.dumps(found))
"""


def signs(folder: Path) -> dict[str, float]:
    """CPU seconds of one look and of one sign of life, the least of five."""
    found: list[dict[str, float]] = []
    for _ in range(5):
        done = subprocess.run(
            [sys.executable, "-c", SIGNS],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return {name: min(each[name] for each in found) for name in ("look", "sign")}


def run(folder: Path, level: str, idle: float = 0.0) -> dict[str, float]:
    """One worker's figures."""
    env = {**os.environ, "CLOUDQ_MONITORING": level, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", WORKER, str(idle)],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    tasks = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "benchapp.py").write_text(APP)
        send = f"from benchapp import app, noop; app.send_many(noop.s() for _ in range({tasks}))"
        costs: dict[str, list[float]] = {level: [] for level in LEVELS}
        for _ in range(rounds):
            for level in LEVELS:
                subprocess.run([sys.executable, "-c", send], cwd=folder, check=True)
                found = run(folder, level)
                assert found["acked"] == tasks, found
                costs[level].append(found["cpu"] / tasks * 1e6)
        base = statistics.median(costs["off"])
        print("| level | CPU per no-op task, us (median of rounds) | least, most | over off | idle, CPU % |")
        print("|---|---|---|---|---|")
        for level in LEVELS:
            idle = run(folder, level, idle=10.0)
            mine = statistics.median(costs[level])
            print(
                f"| {level} | {mine:.0f} | {min(costs[level]):.0f}, {max(costs[level]):.0f} "
                f"| {mine / base - 1:+.1%} | {idle['cpu'] / idle['seconds']:.2%} |"
            )
        each = signs(folder)
        print(
            f"\na look at the board: {each['look'] * 1e6:.0f} us CPU, a sign of life: {each['sign'] * 1e6:.0f} us"
        )
        for where, (looks, beats) in (("of this machine", NEAR), ("in the cloud", FAR)):
            minute = 60 / looks * each["look"] + 60 / beats * each["sign"]
            print(f"level workers, as often as on a store {where}: {minute / 60:.4%} of a CPU")
        print(f"\n{tasks} tasks, {rounds} rounds, {time.strftime('%Y-%m-%d')}")


if __name__ == "__main__":
    main()
