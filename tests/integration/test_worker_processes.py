"""Real ``cloudq worker`` processes, and a Lambda function behind a mapping: every pool, every way a task may end."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from worker_processes import Scene, eventually, sqlite_scene

from cloudq import CloudQ
from cloudq.backends.open import open_backend
from cloudq.brokers.base import Message, QueueSpec
from cloudq.brokers.claimcheck import BucketPlace, EntryPlace
from cloudq.brokers.open import open_broker
from cloudq.errors import SoftTimeLimitExceeded, TaskRevokedError, TimeLimitExceeded

WAIT = 45.0


@pytest.fixture(
    scope="module",
    params=[
        "threads",
        "prefork",
        pytest.param("solo", marks=pytest.mark.slow),
        pytest.param("threads on aws", marks=pytest.mark.slow),
        pytest.param("lambda", marks=[pytest.mark.slow, pytest.mark.long]),
    ],
)
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A worker that consumes, shared by the tests of this module; it must end well."""
    pool, _, where = request.param.partition(" ")
    folder = tmp_path_factory.mktemp(request.param.replace(" ", "-"))
    if where:
        url = request.getfixturevalue("ministack_url")
        made = Scene(
            folder, f"sqs://?endpoint_url={url}", f"dynamodb://processes?endpoint_url={url}", "processes"
        )
        queue, table = open_broker(made.broker), open_backend(made.backend)
        queue.create_queue(QueueSpec(made.queue, 2.0, max_receive_count=3))  # type: ignore[attr-defined]
        table.create_table()  # type: ignore[attr-defined]
        boto3.client("s3", endpoint_url=url).create_bucket(Bucket="processes-large")
        queue.close()
        table.close()
    else:
        # a function may take as long as its messages are hidden, a worker renews its leases
        with sqlite_scene(folder, visibility_timeout=20 if pool == "lambda" else 2) as made:
            pass
    settings = {"CLOUDQ_BROKER_LARGE_MESSAGES": kept(made)}
    if pool == "lambda":
        with made.function("-c", "1", "--memory", "3538", "--timeout", "20", **settings) as function:
            yield made
            assert function.stop() == 0, function.text[-3000:]
        return
    with made.worker("-P", pool, "-c", "2", **settings) as worker:
        yield made
        assert worker.stop() == 0, worker.text[-3000:]
        assert "Traceback" not in worker.text.rpartition("stopping")[2]


def kept(scene: Scene) -> str:
    """Where messages over the queue's limit are kept."""
    if scene.broker.startswith("sqs"):
        return f"s3://processes-large?endpoint_url={scene.broker.partition('endpoint_url=')[2]}"
    return f"file:///{scene.folder}/large"


@pytest.fixture(scope="module")
def app(scene: Scene) -> Iterator[CloudQ]:
    with CloudQ(
        "client",
        broker=scene.broker,
        backend=scene.backend,
        task_default_queue=scene.queue,
        broker_large_messages=kept(scene),
    ) as made:
        yield made


def send(app: CloudQ, name: str, *args: Any, **options: Any) -> Any:
    return app.send_task(f"worker_app.{name}", args, **options)


def test_a_task_runs_and_its_result_is_read(app: CloudQ) -> None:
    assert send(app, "add", 2, 3).get(timeout=WAIT) == 5


def test_many_tasks_run(app: CloudQ) -> None:
    results = app.send_many(app.signature("worker_app.add", (n, n)) for n in range(50))
    assert [each.get(timeout=WAIT) for each in results] == [2 * n for n in range(50)]


def test_arguments_over_the_queues_limit_arrive_and_leave_nothing_behind(app: CloudQ) -> None:
    assert send(app, "length", "x" * 3_000_000).get(timeout=WAIT) == 3_000_000
    assert app.claims is not None
    place = app.claims._places[0]
    if isinstance(place, EntryPlace):
        eventually("removed", lambda: not list(place._backend.keys("messages/")))
    elif isinstance(place, BucketPlace):
        eventually("removed", lambda: not list(place._bucket.list("messages/")))


def test_an_async_def_task_runs(app: CloudQ) -> None:
    assert send(app, "later", 21).get(timeout=WAIT) == 42


def test_a_failure_is_the_callers_to_see(app: CloudQ) -> None:
    result = send(app, "boom", "not today")
    with pytest.raises(ValueError, match="not today"):
        result.get(timeout=WAIT)
    assert "raise ValueError(text)" in result.traceback


def test_a_task_asks_for_retries_until_it_succeeds(app: CloudQ, scene: Scene) -> None:
    result = send(app, "stubborn", 2)
    assert result.get(timeout=WAIT) == 2
    assert len(scene.runs("start", result.id)) == 3


def test_errors_named_in_autoretry_for_are_retried_ever_later(app: CloudQ, scene: Scene) -> None:
    result = send(app, "shaky", 3)
    assert result.get(timeout=WAIT) == 3
    first, second, third, fourth = [run.at for run in scene.runs("start", result.id)]
    assert (second - first, third - second, fourth - third) > (0.2, 0.4, 0.8)
    assert fourth - first > 1.4


def test_a_task_with_a_countdown_starts_no_earlier(app: CloudQ, scene: Scene) -> None:
    sent = time.time()
    result = send(app, "work", 1, countdown=0.7)
    assert result.get(timeout=WAIT) == 1
    (run,) = scene.runs("start", result.id)
    assert run.at >= sent + 0.7


def test_a_task_with_an_eta_starts_no_earlier(app: CloudQ, scene: Scene) -> None:
    due = datetime.now(UTC) + timedelta(seconds=0.7)
    result = send(app, "work", 2, eta=due)
    assert result.get(timeout=WAIT) == 2
    (run,) = scene.runs("start", result.id)
    assert run.at >= due.timestamp()


def test_an_expired_task_is_revoked_and_not_run(app: CloudQ, scene: Scene) -> None:
    result = send(app, "work", 3, expires=0.3, countdown=0.6)
    with pytest.raises(TaskRevokedError, match="expired"):
        result.get(timeout=WAIT)
    assert result.state == "REVOKED"
    assert scene.runs("start", result.id) == []


def test_a_link_gets_the_result(app: CloudQ) -> None:
    follower = app.signature("worker_app.report", ("too",), options={"task_id": f"link-{time.time_ns()}"})
    send(app, "add", 1, 2, link=follower).get(timeout=WAIT)
    assert app.AsyncResult(follower.options["task_id"]).get(timeout=WAIT) == [3, "too"]


def test_a_link_error_gets_the_id_of_what_failed(app: CloudQ) -> None:
    follower = app.signature("worker_app.report", options={"task_id": f"errback-{time.time_ns()}"})
    failed = send(app, "boom", link_error=follower)
    assert app.AsyncResult(follower.options["task_id"]).get(timeout=WAIT) == [failed.id]


def test_a_soft_limit_can_be_caught(app: CloudQ) -> None:
    assert send(app, "soft", True).get(timeout=WAIT) == "tidied up"


def test_a_soft_limit_that_is_not_caught_is_a_failure(app: CloudQ) -> None:
    with pytest.raises(SoftTimeLimitExceeded):
        send(app, "soft", False).get(timeout=WAIT)


def test_a_hard_limit_stops_a_task_and_work_goes_on(app: CloudQ) -> None:
    with pytest.raises(TimeLimitExceeded, match="0.4 s"):
        send(app, "hard").get(timeout=WAIT)
    assert send(app, "add", 1, 1).get(timeout=WAIT) == 2


def test_a_result_that_cannot_be_stored_is_a_failure_naming_the_path(app: CloudQ) -> None:
    result = send(app, "unwritable")
    with pytest.raises(Exception, match=r"result of worker_app\.unwritable cannot be stored.*rows.*1"):
        result.get(timeout=WAIT)
    assert result.state == "FAILURE"


def test_an_early_acknowledged_task_that_outlasts_its_lease_is_recorded(app: CloudQ, scene: Scene) -> None:
    result = send(app, "once", 1.5)
    assert result.get(timeout=WAIT) == "done once"
    assert len(scene.runs("start", result.id)) == 1


BURIED = [
    ("unknown_task", json.dumps({"task": "worker_app.nobody_knows_this", "args": []}), "nobody_knows_this"),
    ("invalid_arguments", json.dumps({"task": "worker_app.add", "args": [1, 2, 3]}), "too many positional"),
    ("undecodable", "{ no JSON", "JSON"),
    ("unsupported_version", json.dumps({"v": 99, "task": "worker_app.add", "args": [1, 2]}), "99"),
    (
        "content_disallowed",
        json.dumps(
            {
                "task": "worker_app.add",
                "content": {
                    "type": "application/x-python-serialize",
                    "encoding": "base64",
                    "data": "gASVAgA=",
                },
            }
        ),
        "application/x-python-serialize",
    ),
]


def test_what_cannot_be_run_is_buried_with_the_reason(app: CloudQ, scene: Scene) -> None:
    app.broker.send(scene.queue, [Message(body) for _, body, _ in BURIED])
    dead = app.broker.describe(scene.queue).dead_letter_queue
    assert dead is not None
    eventually("buried", lambda: app.broker.depth(dead).total == len(BURIED))
    listed = scene.cloudq("dlq", "list", scene.queue, "--json")
    app.broker.purge(dead)
    assert listed.returncode == 0, listed.stderr
    letters = {each["body"]: each for each in json.loads(listed.stdout)}
    assert {body: letters[body]["reason"] for _, body, _ in BURIED} == {body: why for why, body, _ in BURIED}
    for _, body, told in BURIED:
        assert told in letters[body]["detail"]
        assert letters[body]["origin"] == scene.queue


def test_a_dead_letter_is_mended_and_sent_back(app: CloudQ, scene: Scene) -> None:
    task_id = f"mended-{time.time_ns()}"
    app.broker.send(
        scene.queue, [Message(json.dumps({"id": task_id, "task": "worker_app.addd", "args": [20, 22]}))]
    )
    dead = app.broker.describe(scene.queue).dead_letter_queue
    assert dead is not None
    eventually("buried", lambda: app.broker.depth(dead).total > 0)
    done = scene.cloudq("dlq", "redrive", scene.queue, "--edit", '{"task": "worker_app.add"}')
    assert done.returncode == 0, done.stderr
    assert "1 sent back" in done.stdout
    assert app.AsyncResult(task_id).get(timeout=WAIT) == 42
    assert app.broker.depth(dead).total == 0
