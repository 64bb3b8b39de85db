"""The local event source mapping keeps to AWS's rules."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cloudq import CloudQ
from cloudq.aws_lambda.event import event_of
from cloudq.aws_lambda.events import parse, queue_name
from cloudq.aws_lambda.mapping import EventSourceMapping, Rules, failures
from cloudq.aws_lambda.sandbox import FunctionFailed
from cloudq.brokers.base import Message, QueueSpec
from cloudq.errors import ImproperlyConfigured


@pytest.fixture
def app() -> Iterator[CloudQ]:
    with CloudQ("map", broker="memory://?visibility_timeout=60", backend="disabled://") as app:
        yield app


class Answers:
    """Stands for a function's process."""

    starts = 1

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        self._answer = answer
        self.sizes: list[int] = []

    def invoke(self, event: Any) -> Any:
        self.sizes.append(len(event["Records"]))
        return self._answer(event)

    def close(self) -> None:
        pass


def serve(
    app: CloudQ, answer: Callable[[Any], Any], *bodies: str, **rules: Any
) -> tuple[EventSourceMapping, Answers]:
    queue = rules.pop("queue", "cloudq")
    app.broker.send(
        queue, [Message(each, group_id="g" if queue.endswith("fifo") else None) for each in bodies]
    )
    function = Answers(answer)
    mapping = EventSourceMapping(app.broker, Rules(queue, timeout=10, **rules), lambda: function)  # type: ignore[arg-type,return-value]
    mapping.run(stop_when_idle=0.1)
    return mapping, function


def test_what_is_not_reported_is_deleted(app: CloudQ) -> None:
    def one_failed(event: Any) -> Any:
        bad = [each["messageId"] for each in event["Records"] if each["body"] == "bad"]
        return {"batchItemFailures": [{"itemIdentifier": each} for each in bad]}

    mapping, _ = serve(app, one_failed, "good", "bad", "good")
    depth = app.broker.depth("cloudq")
    assert (depth.visible, depth.in_flight, mapping.deleted, mapping.failed) == (0, 1, 2, 1)


def test_without_report_batch_item_failures_everything_is_deleted(app: CloudQ) -> None:
    serve(app, lambda event: {"batchItemFailures": [{"itemIdentifier": ""}]}, "a", "b", reports=False)
    assert app.broker.depth("cloudq").total == 0


@pytest.mark.parametrize("kind", ["error", "crash", "timeout"])
def test_a_function_that_fails_deletes_nothing(app: CloudQ, kind: str) -> None:
    def fail(event: Any) -> Any:
        raise FunctionFailed(kind, "no")

    mapping, _ = serve(app, fail, "a", "b")
    assert app.broker.depth("cloudq").in_flight == 2
    assert mapping.failed == 2


def test_a_batch_is_at_most_its_size(app: CloudQ) -> None:
    _, function = serve(app, lambda event: None, *"abcdefg", batch_size=3)
    assert function.sizes == [3, 3, 1]


def test_a_window_gathers_more_than_ten(app: CloudQ) -> None:
    _, function = serve(app, lambda event: None, *(str(n) for n in range(25)), batch_size=100, window=1)
    assert function.sizes == [25]


@pytest.mark.parametrize(
    ("answer", "failed"),
    [
        (None, set()),
        ({}, set()),
        ({"batchItemFailures": None}, set()),
        ({"batchItemFailures": []}, set()),
        ({"batchItemFailures": [{"itemIdentifier": "a"}]}, {"a"}),
        ({"batchItemFailures": [{"itemIdentifier": ""}]}, {"a", "b"}),
        ({"batchItemFailures": [{"itemIdentifier": None}]}, {"a", "b"}),
        ({"batchItemFailures": [{"itemIdentifier": "c"}]}, {"a", "b"}),
        ({"batchItemFailures": [{"wrong": "a"}]}, {"a", "b"}),
        ({"batchItemFailures": "a"}, {"a", "b"}),
        ("text", {"a", "b"}),
    ],
)
def test_what_an_answer_means(app: CloudQ, answer: Any, failed: set[str]) -> None:
    app.broker.send("cloudq", [Message("1"), Message("2")])
    batch = app.broker.receive("cloudq", 10, 0.0, 60.0)
    names = dict(zip("ab", (each.message_id for each in batch), strict=True))
    if isinstance(answer, dict) and isinstance(answer.get("batchItemFailures"), list):
        answer = {
            "batchItemFailures": [
                {key: names.get(value, value) for key, value in each.items()}
                for each in answer["batchItemFailures"]
            ]
        }
    assert failures(answer, batch) == {names[each] for each in failed}


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"batch_size": 11}, "window"),
        ({"batch_size": 10_001, "window": 5}, "10000"),
        ({"window": 301}, "300"),
        ({"queue": "q.fifo", "batch_size": 11}, "1 to 10"),
        ({"queue": "q.fifo", "window": 1}, "FIFO"),
        ({"timeout": 901}, "900"),
        ({"concurrency": 0}, "at least 1"),
    ],
)
def test_what_aws_refuses_is_refused(rules: dict[str, Any], words: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=words):
        Rules(**{"queue": "q", **rules})


def test_a_timeout_over_the_visibility_timeout_is_refused_and_a_near_one_told(app: CloudQ) -> None:
    app.broker.create_queue(QueueSpec("slow", visibility_timeout=30))  # type: ignore[attr-defined]
    said: list[str] = []
    with pytest.raises(ImproperlyConfigured, match="visibility timeout of slow"):
        EventSourceMapping(app.broker, Rules("slow", timeout=31), lambda: None)  # type: ignore[arg-type,return-value]
    EventSourceMapping(app.broker, Rules("slow", timeout=10), lambda: None, said.append)  # type: ignore[arg-type,return-value]
    assert "6 times" in said[0]


def test_an_event_made_here_is_read_as_one_of_aws(app: CloudQ) -> None:
    app.broker.send("q.fifo", [Message("body", group_id="g", attributes={"a": "1"})])
    [sent] = app.broker.receive("q.fifo", 1, 0.0, 60.0)
    [found] = parse(event_of([sent]), lambda arn: queue_name(arn) or "", sent.received_at, 0.0).deliveries
    for name in ("queue", "message_id", "body", "receipt", "receive_count", "group_id", "attributes"):
        assert getattr(found, name) == getattr(sent, name), name


def test_stop_lets_what_runs_end(app: CloudQ) -> None:
    begun, go = threading.Event(), threading.Event()

    def wait(event: Any) -> Any:
        begun.set()
        go.wait(10)

    app.broker.send("cloudq", [Message("a")])
    mapping = EventSourceMapping(app.broker, Rules("cloudq", timeout=10), lambda: Answers(wait))  # type: ignore[arg-type,return-value]
    running = threading.Thread(target=mapping.run)
    running.start()
    assert begun.wait(10)
    mapping.stop()
    go.set()
    running.join(10)
    assert not running.is_alive()
    assert app.broker.depth("cloudq").total == 0
