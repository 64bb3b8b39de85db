"""Where messages go and in which order they come: on SQS, with what is really sent, and real workers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from worker_processes import eventually

from cloudq import CloudQ
from cloudq.brokers.base import QueueSpec
from cloudq.errors import TaskRevokedError
from cloudq.testing.workers import running_worker

WAIT = 45.0


@pytest.fixture
def url(ministack_url: str) -> str:
    return ministack_url


def app_on(url: str, *queues: str, **settings: Any) -> CloudQ:
    app = CloudQ(
        "routing",
        broker=f"sqs://?endpoint_url={url}",
        backend="memory://",
        task_default_queue=queues[0],
        **settings,
    )
    for queue in queues:
        app.broker.create_queue(QueueSpec(queue, 5.0))  # type: ignore[attr-defined]
    return app


@pytest.fixture
def closing() -> Iterator[list[CloudQ]]:
    apps: list[CloudQ] = []
    yield apps
    for each in apps:
        each.close()


def raw(url: str, queue: str) -> list[dict[str, Any]]:
    """What lies in the queue, as SQS itself tells it."""
    client: Any = boto3.client("sqs", endpoint_url=url)
    queue_url = client.get_queue_url(QueueName=queue)["QueueUrl"]
    answer = client.receive_message(
        QueueUrl=queue_url,
        MaxNumberOfMessages=10,
        WaitTimeSeconds=1,
        VisibilityTimeout=0,
        MessageSystemAttributeNames=["All"],
    )
    return [each["Attributes"] for each in answer.get("Messages", [])]


def test_a_tenant_of_fair_queues_is_really_sent_and_kept_over_retries(
    url: str, unique: str, closing: list[CloudQ]
) -> None:
    app = app_on(url, unique)
    closing.append(app)
    seen: list[Any] = []

    @app.task(name="send", bind=True, max_retries=1, default_retry_delay=0, rate_limit="3/s")
    def send(self: Any) -> None:
        seen.append(self.request.delivery_info["group_id"])
        if self.request.retries == 0:
            self.retry()

    send.apply_async(group_id="tenant-a")
    assert [each["MessageGroupId"] for each in raw(url, unique)] == ["tenant-a"]

    results = [send.apply_async(group_id="tenant-a") for _ in range(4)]
    with running_worker(app, [unique]):
        for each in results:
            each.get(timeout=WAIT)
    assert set(seen) == {"tenant-a"}
    assert len(seen) >= 8


def test_groups_and_dedup_ids_of_fifo_queues(url: str, unique: str, closing: list[CloudQ]) -> None:
    queue = f"{unique}.fifo"
    app = app_on(url, queue)
    closing.append(app)
    order: list[tuple[str, int]] = []
    mutex = threading.Lock()

    @app.task(name="send", bind=True)
    def send(self: Any, group: str, number: int) -> None:
        with mutex:
            order.append((group, number))
        time.sleep(0.01)

    results = []
    for number in range(4):
        results += [send.apply_async((group, number), group_id=group) for group in ("a", "b")]
    twice = [send.apply_async(("c", 0), group_id="c", dedup_id=f"{unique}-once") for _ in range(2)]
    sent = raw(url, queue)
    assert {each["MessageGroupId"] for each in sent} <= {"a", "b", "c"}
    assert all(each["MessageDeduplicationId"] for each in sent)
    with running_worker(app, [queue]):
        for each in [*results, twice[0]]:
            each.get(timeout=WAIT)
    for group in ("a", "b"):
        assert [n for name, n in order if name == group] == [0, 1, 2, 3]
    assert [n for name, n in order if name == "c"] == [0]


def test_early_acknowledgement_and_expiry(url: str, unique: str, closing: list[CloudQ]) -> None:
    app = app_on(url, unique)
    closing.append(app)
    depths: list[int] = []

    @app.task(name="early", acks_late=False)
    def early() -> None:
        depths.append(app.broker.depth(unique).total)

    @app.task(name="stale")
    def stale() -> None: ...

    expired = stale.apply_async(expires=0.001)
    time.sleep(0.01)
    with running_worker(app, [unique], concurrency=1):
        with pytest.raises(TaskRevokedError, match="expired"):
            expired.get(timeout=WAIT)
        eventually("it is deleted", lambda: app.broker.depth(unique).total == 0)
        early.delay().get(timeout=WAIT)
    assert depths == [0]


def test_priorities_a_worker_takes_urgent_messages_first_and_leaves_none(
    url: str, unique: str, closing: list[CloudQ]
) -> None:
    names = (f"{unique}-high", unique, f"{unique}-low")
    app = app_on(
        url,
        unique,
        names[0],
        names[2],
        task_queue_priorities={unique: ["-high", "", "-low"]},
        worker_queue_order="strict",
    )
    closing.append(app)
    order: list[str] = []

    @app.task(name="note")
    def note(what: str) -> None:
        order.append(what)

    results = [
        note.apply_async((what,), priority=priority)
        for what, priority in (("low", 0), ("mid", 5), ("high", 9))
        for _ in range(4)
    ]
    with running_worker(app, [unique], pool="threads", concurrency=1):
        for each in results:
            each.get(timeout=WAIT)
    assert sorted(order) == ["high"] * 4 + ["low"] * 4 + ["mid"] * 4
    # what is received may run in any order, but the low ones are not even asked for before
    assert order.index("low") > order.index("high")
    assert max(n for n, each in enumerate(order) if each == "high") < max(
        n for n, each in enumerate(order) if each == "low"
    )
