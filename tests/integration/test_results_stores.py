"""Results on real servers: groups, announcements, and stores that are not there."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from blob_servers import make_azure_container, make_gcs_bucket

from cloudq import CloudQ
from cloudq.backends.base import ResultBackend
from cloudq.brokers.base import QueueSpec
from cloudq.execution.call import NoWatch
from cloudq.runtime.verdict import Ack, Release
from cloudq.testing.stores import Counting

#: More than one batch of reads.
GROUP = 120

#: Where each store is, given a name that exists or not.
URLS: dict[str, Callable[[dict[str, str], str], str]] = {
    "dynamodb": lambda at, name: f"dynamodb://{name}?endpoint_url={at['aws']}",
    "s3": lambda at, name: f"s3://{name}/results?endpoint_url={at['aws']}",
    "gs": lambda at, name: f"gs://{name}/results?endpoint_url={at['gcs']}",
    "azureblob": lambda at, name: f"azureblob://{name}/results",
}


@pytest.fixture
def servers_at(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], dict[str, str]]:
    def start(kind: str) -> dict[str, str]:
        if kind == "azureblob":
            monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", request.getfixturevalue("azurite"))
            return {}
        if kind == "gs":
            return {"gcs": request.getfixturevalue("fake_gcs_url")}
        return {"aws": request.getfixturevalue("ministack_url")}

    return start


def make(kind: str, at: dict[str, str], name: str) -> None:
    """Create the table, bucket or container."""
    if kind == "dynamodb":
        from cloudq.backends.open import open_backend

        made: Any = open_backend(URLS[kind](at, name))
        made.create_table()
        made.close()
    elif kind == "s3":
        boto3.client("s3", endpoint_url=at["aws"]).create_bucket(Bucket=name)
    elif kind == "gs":
        make_gcs_bucket(at["gcs"], name)
    else:
        import os

        make_azure_container(os.environ["AZURE_STORAGE_CONNECTION_STRING"], name)


def work(app: CloudQ, queue: str, until: Callable[[], bool]) -> None:
    """A worker of one thread."""
    lifecycle = app.lifecycle("w")
    end = time.monotonic() + 30
    while not until() and time.monotonic() < end:
        for each in app.broker.receive(queue, 10, 0.0, 30.0):
            if isinstance(lifecycle.run(each, NoWatch()), Ack):
                app.broker.ack([each])


@contextlib.contextmanager
def working(app: CloudQ, queue: str = "cloudq") -> Iterator[None]:
    stopped = threading.Event()
    thread = threading.Thread(target=work, args=(app, queue, stopped.is_set))
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join(30)


@pytest.mark.parametrize("kind", URLS)
def test_a_group_is_awaited_saved_and_restored_on(
    kind: str, servers_at: Callable[[str], dict[str, str]], unique: str
) -> None:
    at = servers_at(kind)
    make(kind, at, unique)
    from cloudq.backends.open import open_backend

    store: ResultBackend = open_backend(URLS[kind](at, unique))
    counted = Counting(store)
    app = CloudQ("group", broker="memory://", backend=counted)

    @app.task(name="add")
    def add(x: int) -> int:
        if x == 7:
            raise KeyError(x)
        return x + 1

    results = app.send_many([add.s(n) for n in range(GROUP)])
    app.GroupResult("g", results).save()
    group = app.GroupResult.restore("g")
    assert group is not None
    with working(app):
        values = group.join(timeout=60, propagate=False)

    assert [each for each in values if not isinstance(each, KeyError)] == [
        n + 1 for n in range(GROUP) if n != 7
    ]
    assert isinstance(values[7], KeyError)
    assert group.completed_count() == GROUP - 1
    assert counted.calls["write"] == GROUP + 1  # one a task, one for the group
    with pytest.raises(KeyError):
        group.get(timeout=1)
    group.delete()
    assert app.GroupResult.restore("g") is None
    app.close()


@pytest.mark.parametrize("kind", URLS)
def test_a_store_that_is_not_there_keeps_the_message_and_is_named(
    kind: str,
    servers_at: Callable[[str], dict[str, str]],
    unique: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    at = servers_at(kind)
    ran: list[int] = []
    app = CloudQ("gone", broker="memory://", backend=URLS[kind](at, unique), worker_settle_timeout=0.0)

    @app.task(name="works")
    def works() -> int:
        ran.append(1)
        return 1

    result = works.delay()
    [delivery] = app.broker.receive("cloudq", 1, 0.0, 30.0)
    lifecycle = app.lifecycle("w")

    verdict = lifecycle.run(delivery, NoWatch())

    assert isinstance(verdict, Release)
    assert unique in caplog.text
    app.broker.release([delivery])
    assert app.broker.depth("cloudq").total == 1
    make(kind, at, unique)  # somebody notices
    [delivery] = app.broker.receive("cloudq", 1, 0.0, 30.0)
    assert lifecycle.run(delivery, NoWatch()) == Ack()
    assert result.get(timeout=5) == 1
    app.close()


def test_ends_are_announced_over_sqs(ministack_url: str, unique: str) -> None:
    broker = f"sqs://?endpoint_url={ministack_url}&queue_name_prefix={unique}-"
    client = CloudQ(
        "client", broker=broker, backend="memory://", result_push=True, result_push_queue="replies"
    )
    worker = CloudQ("worker", broker=broker, backend=client.backend)
    admin: Any = client.broker
    for each in ("work", "replies"):
        admin.create_queue(QueueSpec(each))

    @worker.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    results = [client.send_task("add", (n, 1), queue="work") for n in range(5)]
    heard: list[str] = []
    look_now = client.poller.look_now
    client.poller.look_now = lambda each: (heard.append(each), look_now(each))[1]  # type: ignore[method-assign]
    client.AsyncResult("never").then(lambda each: None, lambda error: None)  # keeps the listener listening
    with working(worker, "work"):
        assert client.ResultSet(results).join(timeout=30) == [1, 2, 3, 4, 5]
        end = time.monotonic() + 20
        while len(heard) < 5 and time.monotonic() < end:
            time.sleep(0.02)
    assert sorted(heard) == sorted(each.id for each in results)
    assert client.poller.announced
    client.close()
    worker.close()
