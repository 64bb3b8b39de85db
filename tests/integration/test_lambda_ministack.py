"""End to end: a zip of ``cloudq package``, run by ministack behind real event source mappings.

Queues, results and the function are all ministack's; nothing here calls the handler itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import servers

from cloudq import CloudQ, chord
from cloudq.brokers.base import QueueSpec
from cloudq.control.deadletters import DeadLetters
from cloudq.errors import TimeoutError as NotYet

#: ministack runs functions with its own Python.
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
FUNCTION_TIMEOUT = 20
VISIBILITY = 5

TASKS = """
import os, time
from cloudq import CloudQ

app = CloudQ("proof")


@app.task
def square(x):
    return x * x


@app.task(bind=True, autoretry_for=(OSError,), default_retry_delay=1, max_retries=3, retry_jitter=False)
def flaky(self, x):
    if self.request.retries < 2:
        raise OSError("away")
    return [x, self.request.retries]


@app.task
def total(numbers):
    return sum(numbers)


@app.task
def fail(x):
    raise ValueError(f"no {x}")


@app.task
async def doze(x):
    import asyncio
    await asyncio.sleep(0.05)
    return -x


@app.task
def poison():
    os._exit(3)


@app.task(queue="orders.fifo", bind=True, autoretry_for=(OSError,), default_retry_delay=0, max_retries=3)
def step(self, group, n):
    if n == 2 and self.request.retries == 0:
        raise OSError("once")
    return [group, n, time.time()]
"""


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory, aws_env: None) -> Iterator[str]:
    with servers.ministack(tmp_path_factory.mktemp("ministack")) as url:
        yield url


def deploy(url: str, folder: Path, app: CloudQ, queues: list[str]) -> None:
    """Package, create the function, map the queues."""
    (folder / "proof.py").write_text(TASKS)
    done = subprocess.run(
        [sys.executable, "-m", "cloudq", "package", "-A", "proof:app", "--python", PYTHON, "--json"],
        cwd=folder,
        env=servers.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    built = json.loads(done.stdout)
    client = boto3.client("lambda", endpoint_url=url, region_name="us-east-1")
    client.create_function(
        FunctionName="consume",
        Runtime=f"python{PYTHON}",
        Handler="handlers.consume.handler",
        Role="arn:aws:iam::000000000000:role/consume",
        Code={"ZipFile": Path(built["path"]).read_bytes()},
        Timeout=FUNCTION_TIMEOUT,
        MemorySize=512,
        Environment={
            "Variables": {
                "CLOUDQ_APP": "proof:app",
                "CLOUDQ_BROKER_URL": app.conf.broker_url,
                "CLOUDQ_RESULT_BACKEND": app.conf.result_backend,
                "CLOUDQ_WORKER_CONCURRENCY": "4",
                "AWS_ACCESS_KEY_ID": "test",
                "AWS_SECRET_ACCESS_KEY": "test",
            }
        },
    )
    for queue in queues:
        app.broker.create_queue(QueueSpec(queue, visibility_timeout=VISIBILITY, max_receive_count=5))  # type: ignore[attr-defined]
        client.create_event_source_mapping(
            EventSourceArn=f"arn:aws:sqs:us-east-1:000000000000:{queue}",
            FunctionName="consume",
            BatchSize=10,
            FunctionResponseTypes=["ReportBatchItemFailures"],
        )


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_five_hundred_tasks_through_a_packaged_function(aws: str, tmp_path: Path) -> None:
    app = CloudQ(
        "client",
        broker=f"sqs://?region=us-east-1&endpoint_url={aws}",
        backend=f"dynamodb://proof-results?region=us-east-1&endpoint_url={aws}",
    )
    app.backend.create_table()  # type: ignore[union-attr]
    deploy(aws, tmp_path, app, ["cloudq", "orders.fifo"])
    signature = app.signature
    calls = [signature("proof.square", (n,)) for n in range(330)]
    calls += [signature("proof.flaky", (n,)) for n in range(40)]
    calls += [signature("proof.fail", (n,)) for n in range(40)]
    calls += [signature("proof.doze", (n,)) for n in range(30)]
    calls.insert(200, signature("proof.poison"))
    calls += [
        signature("proof.step", (group, n), options={"queue": "orders.fifo", "group_id": f"g{group}"})
        for n in range(5)
        for group in range(6)
    ]
    header = [signature("proof.square", (n,)) for n in range(28)]
    assert len(calls) + len(header) + 1 == 500
    sent = app.send_many(calls)
    joined = chord(header, signature("proof.total")).apply_async()

    until = time.monotonic() + 200
    records: dict[str, Any] = {}
    poisoned = sent[200]
    while time.monotonic() < until and len(records) < len(sent) - 1:
        for each in sent:
            if each.id not in records and each is not poisoned and each.ready():
                records[each.id] = each
        time.sleep(0.5)
    states = Counter(each.state for each in records.values())
    assert states == {"SUCCESS": 430, "FAILURE": 40}

    assert joined.get(timeout=30) == sum(n * n for n in range(28))
    by_task = list(zip(calls, sent, strict=True))
    assert all(r.get() == c.args[0] ** 2 for c, r in by_task if c.task == "proof.square")
    assert all(r.get() == [c.args[0], 2] for c, r in by_task if c.task == "proof.flaky")
    assert all(r.get() == -c.args[0] for c, r in by_task if c.task == "proof.doze")
    assert all(str(r.result) == f"no {c.args[0]}" for c, r in by_task if c.task == "proof.fail")
    steps = [r.get() for c, r in by_task if c.task == "proof.step"]
    for group in range(6):
        mine = sorted((when, n) for each, n, when in steps if each == group)
        assert [n for _, n in mine] == [0, 1, 2, 3, 4], "a retried step keeps its place"

    # the poison alone reaches the dead letters, by the queue's own redrive
    letters = DeadLetters(app.broker, "cloudq")
    found: list[Any] = []
    while time.monotonic() < until and not found:
        found = letters.peek(10)
        time.sleep(0.5)
    assert [each.task for each in found] == ["proof.poison"]
    with pytest.raises(NotYet):
        poisoned.get(timeout=0)
    left = {queue: app.broker.depth(queue).total for queue in ("cloudq", "orders.fifo", "orders-dlq.fifo")}
    assert set(left.values()) == {0}, left
    app.close()
    assert os.path.exists(tmp_path / "function.zip")
