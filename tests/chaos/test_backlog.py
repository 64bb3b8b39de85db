"""A million messages wait, and the worker's memory stays what it was (issue 3, proof e).

The queue is simulated in the worker's own process: messages are made as they are received, so that what grows
is the worker's. ``CLOUDQ_TEST_BACKLOG`` sets another number of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import servers

from cloudq.worker.credit import AHEAD

MESSAGES = int(os.environ.get("CLOUDQ_TEST_BACKLOG", "1000000"))
#: A leak of five bytes a message would be more; the allocator's noise is far below.
ALLOWED_KIB = 4096

SCRIPT = """
import gc, json, sys, threading, time
from cloudq import CloudQ
from cloudq.brokers.base import BrokerCapabilities, Delivery, QueueDepth, QueueInfo
from cloudq.worker.worker import Worker

TOTAL = int(sys.argv[1])

class Backlog:
    '''TOTAL messages, each made when it is received; counts what becomes of them.'''

    url = "backlog://"
    capabilities = BrokerCapabilities()

    def __init__(self):
        self.lock = threading.Lock()
        self.given = self.acked = self.extended = self.wrong = 0
        self.held = set()

    def receive(self, queue, limit, wait, invisible):
        with self.lock:
            first = self.given
            count = self.given = min(TOTAL, first + min(limit, 10))
            self.held.update(range(first, count))
        if first == count:
            time.sleep(min(wait, 0.05))
            return []
        now = time.time()
        return [
            Delivery(queue, f"m{n}", '{"task":"noop","id":"t%d","args":[%d]}' % (n, n), str(n), 1, now, now, now, now + invisible)
            for n in range(first, count)
        ]

    def ack(self, deliveries):
        with self.lock:
            for each in deliveries:
                self.acked += 1
                try:
                    self.held.remove(int(each.receipt))
                except KeyError:
                    self.wrong += 1
        return []

    def extend(self, deliveries, invisible):
        self.extended += len(deliveries)
        return []

    def release(self, deliveries, delay=0.0):
        self.wrong += len(deliveries)
        return []

    def bury(self, delivery, reason, detail=""):
        self.wrong += 1

    def send(self, queue, messages):
        raise AssertionError("nothing is sent")

    def describe(self, queue):
        return QueueInfo(queue, False, 60.0, None, None)

    def depth(self, queue):
        return QueueDepth(TOTAL - self.given, len(self.held), 0)

    def close(self):
        pass

def rss():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))

backlog = Backlog()
app = CloudQ("backlog", broker=backlog, result_backend="disabled://")

@app.task(name="noop")
def noop(number):
    return None

worker = Worker(app, ["q"], pool="threads", concurrency=8, hostname="w")
samples, most = [], 0

def watch():
    global most
    step = TOTAL // 10
    while backlog.acked < TOTAL:
        time.sleep(0.02)
        most = max(most, worker.credit.held)
        if backlog.acked >= step * (len(samples) + 1):
            gc.collect()
            samples.append(rss())
    gc.collect()
    samples.append(rss())
    worker.stop("done")

started = time.monotonic()
worker.start()
threading.Thread(target=watch, daemon=True).start()
code = worker.run()
print(json.dumps({
    "code": code, "acked": backlog.acked, "held": len(backlog.held), "wrong": backlog.wrong,
    "samples": samples, "most": most, "seconds": time.monotonic() - started,
}))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_a_long_backlog_does_not_fill_the_memory() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(MESSAGES)],
        env=servers.environment(),
        capture_output=True,
        text=True,
        timeout=880,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    samples = found["samples"]
    report = (
        f"{MESSAGES} messages in {found['seconds']:.1f} s, at most {found['most']} held; "
        f"memory in KiB after each tenth: {samples}"
    )
    print(report)  # shown by pytest -s, and when the test fails
    assert (found["code"], found["acked"], found["held"], found["wrong"]) == (0, MESSAGES, 0, 0), report
    # concurrency and prefetch, and what is asked for ahead while tasks are done faster than polls go
    assert found["most"] <= 8 * 2 + AHEAD, report
    # what the first tenth has warmed up is all that is ever needed
    assert max(samples[1:]) - samples[0] < ALLOWED_KIB, report
