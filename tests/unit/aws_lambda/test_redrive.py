"""Dead letters sent back by rule."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from esm import Context

from cloudq import CloudQ
from cloudq.aws_lambda.redrive import make_redrive, rules_of
from cloudq.brokers.base import Message, QueueSpec
from cloudq.errors import ImproperlyConfigured, OperationalError


@pytest.fixture
def app() -> Iterator[CloudQ]:
    with CloudQ("dead", broker="memory://", backend="disabled://") as app:
        yield app


def bury(app: CloudQ, reason: str, task: str = "t") -> None:
    for each in app.broker.receive("cloudq", 10, 0.0, 60.0):
        app.broker.bury(each, reason)


def send(app: CloudQ, reason: str, task: str = "t") -> None:
    app.broker.send("cloudq", [Message(f'{{"task": "{task}"}}')])
    bury(app, reason)


def test_only_what_a_rule_means_goes_back(app: CloudQ) -> None:
    send(app, "worker_lost")
    send(app, "undecodable")
    send(app, "worker_lost", "other")

    done = make_redrive(app, [{"queue": "cloudq", "reason": "worker_lost", "task": "t", "rate": 1000}])(
        {}, Context()
    )
    assert [each["count"] for each in done["redriven"]] == [1]
    [back] = app.broker.receive("cloudq", 10, 0.0, 60.0)
    assert back.attributes["cloudq-redrives"] == "1"
    assert app.broker.depth("cloudq-dlq").total == 2


def test_what_is_truly_broken_stays_buried(app: CloudQ) -> None:
    redrive = make_redrive(app, [{"queue": "cloudq", "most": 2, "rate": 1000}])
    send(app, "rejected")
    counts = []
    for _ in range(4):
        counts.append(redrive({}, Context())["redriven"][0]["count"])
        bury(app, "rejected")
    assert counts == [1, 1, 0, 0]
    assert app.broker.depth("cloudq-dlq").total == 1


def test_a_rule_has_a_limit_a_rate_and_the_time_there_is(app: CloudQ) -> None:
    for _ in range(6):
        send(app, "rejected")
    begun = time.monotonic()
    assert (
        make_redrive(app, [{"queue": "cloudq", "limit": 3, "rate": 50}])({}, Context())["redriven"][0][
            "count"
        ]
        == 3
    )
    assert time.monotonic() - begun >= 3 / 50
    late = make_redrive(app, [{"queue": "cloudq", "rate": 4}])({}, Context(0.4))
    assert late["redriven"][0]["count"] == 1, "0.2 s of it for the work"
    assert not late["in_time"]


def test_rules_in_the_event_go_before(app: CloudQ) -> None:
    send(app, "rejected")
    done = make_redrive(app)({"rules": [{"queue": "cloudq", "reason": "nothing"}]}, Context())
    assert done["redriven"][0]["count"] == 0
    with pytest.raises(ImproperlyConfigured, match="CLOUDQ_REDRIVE_RULES"):
        make_redrive(app)({}, Context())


def test_one_rule_that_fails_does_not_stop_the_others(app: CloudQ, monkeypatch: pytest.MonkeyPatch) -> None:
    send(app, "rejected")
    app.broker.create_queue(QueueSpec("other"))  # type: ignore[attr-defined]
    describe = app.broker.describe

    def broken(queue: str) -> Any:
        if queue == "other":
            raise OperationalError("away")
        return describe(queue)

    monkeypatch.setattr(app.broker, "describe", broken)
    with pytest.raises(OperationalError, match="1 of 2"):
        make_redrive(app, [{"queue": "other"}, {"queue": "cloudq", "rate": 1000}])({}, Context())
    assert app.broker.depth("cloudq").total == 1


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({}, "names no queue"),
        ({"queue": "q", "raeson": "x"}, "did you mean reason"),
        ({"queue": "q", "rate": 0}, "above 0"),
        ({"queue": "q", "limit": True}, "above 0"),
        ({"queue": "q", "task": 5}, "text"),
        ({"queue": "q", "older_than": "old"}, "like 15m"),
    ],
)
def test_a_wrong_rule_is_refused_by_name(rule: dict[str, Any], words: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=words):
        rules_of([rule])
    [good] = rules_of([{"queue": "q", "older_than": "15m"}])
    assert good.filter.older_than == 900.0
