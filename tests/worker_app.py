"""The app that worker processes of the tests run: tasks that do every sort of thing.

Broker and store come from the environment (CLOUDQ_BROKER_URL, CLOUDQ_RESULT_BACKEND). What a run
did is appended to the file CLOUDQ_TEST_LOG: one write, one line, so no kill leaves half of one.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

from cloudq import CloudQ
from cloudq.errors import SoftTimeLimitExceeded
from cloudq.signals import worker_process_init, worker_process_shutdown

app = CloudQ("proof")


def note(what: str, task_id: str | None) -> None:
    """Say in the log that something happened."""
    line = f"{what} {task_id} {os.getpid()} {time.time():.6f}\n".encode()
    file = os.open(os.environ["CLOUDQ_TEST_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, line)
    finally:
        os.close(file)


@worker_process_init.connect
@worker_process_shutdown.connect
def child(signal: Any, **_: Any) -> None:
    """In a prefork child: that it began, that it ended."""
    if "CLOUDQ_TEST_LOG" in os.environ:
        note(signal.name, "-")


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def length(text: str) -> int:
    return len(text)


@app.task(bind=True)
def work(self: Any, number: int, seconds: float = 0.0) -> int:
    """Note the start, take a while, note the end."""
    note("start", self.request.id)
    if seconds:
        time.sleep(seconds)
    note("end", self.request.id)
    return number


@app.task(bind=True)
def nap(self: Any, seconds: float) -> str:
    """As ``work``, in steps that a stop can come between."""
    note("start", self.request.id)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.02)
    note("end", self.request.id)
    return "rested"


@app.task(bind=True)
def held(self: Any, path: str) -> str:
    """As ``nap``, until there is such a file."""
    note("start", self.request.id)
    while not os.path.exists(path):
        time.sleep(0.02)
    note("end", self.request.id)
    return "let go"


@app.task(bind=True)
async def doze(self: Any, seconds: float) -> str:
    """As ``nap``, on an event loop."""
    note("start", self.request.id)
    try:
        await asyncio.sleep(seconds)
    finally:
        note("out", self.request.id)
    return "rested"


@app.task(bind=True, max_retries=5)
def stubborn(self: Any, times: int) -> int:
    """Asks for ``times`` retries, then returns how many there were."""
    note("start", self.request.id)
    if self.request.retries < times:
        self.retry(countdown=0.05)
    return int(self.request.retries)


@app.task(bind=True, autoretry_for=(ConnectionError,), retry_backoff=0.2, retry_jitter=False, max_retries=5)
def shaky(self: Any, times: int) -> int:
    """Fails ``times`` times with an error that is retried."""
    note("start", self.request.id)
    if self.request.retries < times:
        raise ConnectionError(f"try {self.request.retries}")
    return int(self.request.retries)


@app.task(throws=(ValueError,))
def boom(text: str = "no good") -> None:
    raise ValueError(text)


@app.task
async def later(x: int) -> int:
    await asyncio.sleep(0.01)
    return x * 2


@app.task(soft_time_limit=0.3)
def soft(catches: bool) -> str:
    try:
        until = time.monotonic() + 5
        while time.monotonic() < until:
            time.sleep(0.02)
    except SoftTimeLimitExceeded:
        if catches:
            return "tidied up"
        raise
    return "never struck"


@app.task(time_limit=0.4)
def hard() -> str:
    until = time.monotonic() + 5
    while time.monotonic() < until:
        time.sleep(0.02)
    return "never struck"


@app.task
def unwritable() -> Any:
    return {"rows": [1, object()]}


@app.task(bind=True)
def report(self: Any, *args: Any) -> list[Any]:
    """For links: what it was called with."""
    note("report", self.request.id)
    return list(args)


@app.task(bind=True, acks_late=False)
def once(self: Any, seconds: float) -> str:
    """Acknowledged before it runs."""
    note("start", self.request.id)
    time.sleep(seconds)
    return "done once"


@app.task(bind=True)
def die(self: Any, how: str) -> None:
    """Takes its process along."""
    note("start", self.request.id)
    if how == "exit":
        os._exit(7)
    os.kill(os.getpid(), getattr(signal, how))
    time.sleep(5)


@app.task(bind=True, acks_late=False)
def die_once(self: Any) -> None:
    note("start", self.request.id)
    os._exit(7)


@app.task(bind=True, rate_limit="4/s")
def paced(self: Any) -> int:
    """At most four a second in each worker."""
    note("start", self.request.id)
    return int(self.request.receive_count)


@app.task(bind=True, max_concurrency=2)
def narrow(self: Any, seconds: float) -> int:
    """Two at a time, wherever they run."""
    note("start", self.request.id)
    time.sleep(seconds)
    note("end", self.request.id)
    return int(self.request.receive_count)


@app.task(bind=True, idempotency_key="order")
def pay(self: Any, order: int, seconds: float = 0.0) -> str:
    """Once for each order. Takes its time only when it is delivered first."""
    note("start", self.request.id)
    time.sleep(seconds if self.request.receive_count == 1 else 0.0)
    note("end", self.request.id)
    return f"paid by {self.request.id}"


@app.task(bind=True, unique="until_finish", unique_on="shop")
def sync(self: Any, shop: str, seconds: float = 0.0) -> str:
    """One at a time for each shop, and none waiting."""
    note("start", self.request.id)
    time.sleep(seconds)
    return f"{shop} by {self.request.id}"


@app.task(batch=5, batch_wait=0.5)
def gather(requests: list[Any]) -> list[Any]:
    """Five at a time. ``how``: what becomes of the item."""
    for request in requests:
        note(f"of-{len(requests)}", request.id)
        how = request.kwargs.get("how")
        if how == "die" and request.receive_count == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "slow":
            time.sleep(1.0)
    return [ValueError("no good") if each.kwargs.get("how") == "fail" else each.args[0] for each in requests]


@app.task(batch=100, batch_wait=600)
def patient(requests: list[Any]) -> None:
    """Waits for company that does not come."""
