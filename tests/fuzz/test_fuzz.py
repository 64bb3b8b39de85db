"""Whatever comes in from outside: never an unhandled error, never an execution, always a reason (issue 10).

Texts are made from seeds (rightly written ones, kept in ``SEEDS`` and ``tests/golden/wire``) by
cutting, repeating, swapping and replacing parts, and from nothing at all. 750 examples in the fast
tests and 3,000 in the slow ones, both in CI; 50,000 by ``make long``; CLOUDQ_TEST_FUZZ_FACTOR multiplies.
A failure prints the text, to be kept in ``FOUND``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cloudq import CloudQ
from cloudq.aws_lambda.api import Api, make_api
from cloudq.aws_lambda.events import parse
from cloudq.brokers.base import Delivery
from cloudq.errors import MessageError, ScheduleError
from cloudq.schedules.reading import as_schedule
from cloudq.serializers.codec import Codec

GOLDEN = Path(__file__).parent.parent / "golden" / "wire"
KEYS = {"k1": "a secret of at least sixteen bytes"}
SEEDS = {
    "message": [each.read_text() for each in sorted(GOLDEN.glob("*.json"))],
    "cron": ["*/5 * * * *", "0 9 * * mon-fri", "15,45 8-18/2 1 jan *", "59 23 31 12 sun", "@daily", "0 0 29 2 *"],
    "plain": ['{"every": 30.0}', '{"cron": "0 0 * * *"}', '{"crontab": {"minute": "*/5"}, "tz": "Europe/Rome"}', '{"solar": {"event": "sunset", "lat": 1, "lon": 2}}'],
    "event": [
        json.dumps({"Records": [{"messageId": "m", "receiptHandle": "r", "body": '{"task": "t"}', "attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": "1", "MessageGroupId": "g"}, "messageAttributes": {"a": {"stringValue": "x", "dataType": "String"}}, "md5OfBody": "x", "eventSource": "aws:sqs", "eventSourceARN": "arn:aws:sqs:eu-west-1:1:q", "awsRegion": "eu-west-1"}]}),
        json.dumps([{"messageId": "m", "receiptHandle": "r", "body": json.dumps({"Type": "Notification", "Message": '{"task": "t"}', "MessageAttributes": {}}), "eventSourceARN": "arn:aws-cn:sqs:cn-north-1:1:q.fifo"}]),
    ],
    "request": [
        json.dumps({"version": "2.0", "rawPath": "/tasks", "headers": {"content-type": "application/json"}, "requestContext": {"http": {"method": "POST", "path": "/tasks"}, "authorizer": {"iam": {"userArn": "arn"}}}, "body": json.dumps({"task": "safe.add", "args": [1, 2]}), "isBase64Encoded": False}),
        json.dumps({"httpMethod": "GET", "path": "/tasks/T1", "headers": None, "queryStringParameters": {"wait": "0.01"}, "requestContext": {"identity": {"userArn": "arn"}}, "body": None, "isBase64Encoded": False}),
    ],
}  # fmt: skip
#: What has gone wrong once, or came near it: fed to the readers each time.
FOUND = {
    "message": ['{"task": "t", "args": ' + "[" * 100_000, '{"task": "t", "args": [' + "9" * 5_000 + "]}", '{"task": "\\ud800"}', '{"task": "t", "eta": 1e999}', '{"task": "t", "headers": {"__type__": "dict", "__value__": [[{}, 1]]}}', '{"task": "t", "group": {"id": "g", "index": -1}}', '{"\\u0073igned": "{}"}', '{"signed": "{\\"signed\\": \\"{}\\"}", "signature": {}}'],
    "cron": ["*/0 * * * *", "60 * * * *", "* * 31 2 *", "L * * * *", "\x00", "9" * 400],
    "plain": ['{"every": 1e999}', '{"every": -1}', '{"crontab": {"minute": []}}', '{"solar": {"event": "x"}}', '{"cron": 7}'],
    "event": ["[]", "null", '{"Records": {}}', '{"Records": [null]}', '{"Records": [{"messageId": 7, "body": null}]}', "[" * 100_000],
    "request": ['{"requestContext": {"http": 7}}', '{"requestContext": {"http": {"method": "POST", "path": "/tasks"}, "authorizer": {"iam": {"userArn": "arn"}}}, "rawPath": "/tasks", "body": "' + "[" * 100_000 + '"}', '{"requestContext": {"identity": []}, "headers": []}'],
}  # fmt: skip
TOKENS = ['"', "{", "}", "[", "]", ":", ",", "null", "true", "-1", "1e999", "9" * 400, "\\u0000", "\\ud800", '""', "[]", "{}", "é", "\x00", "  ", "[" * 200, '{"__type__": "dict", "__value__": ', "cloudq-", "../", "arn:", "L", "/0", "*/"]  # fmt: skip


@st.composite
def mutated(draw: Callable[..., Any], kind: str) -> str:
    """A seed with some of its parts changed."""
    text: str = draw(st.sampled_from(SEEDS[kind]))
    for _ in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 40)))
        other = draw(
            st.sampled_from(TOKENS) | st.text(max_size=5) | st.just(text[start:end] * 2) | st.just("")
        )
        text = text[:start] + other + text[end:]
    return text


def often(count: int) -> Callable[[Any], Any]:
    checks = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
    factor = float(os.environ.get("CLOUDQ_TEST_FUZZ_FACTOR", "1"))
    return settings(max_examples=int(count * factor), deadline=None, suppress_health_check=checks)


def decode(text: str) -> None:
    for codec in (
        Codec(accept_content=("json", "msgpack", "yaml")),
        Codec(keys=KEYS, security_required=True),
    ):
        try:
            envelope = codec.decode(text, "q", "M", sent_at=1.0)
        except MessageError as error:
            assert error.reason
            assert len(str(error)) < 2_000
        else:
            assert isinstance(envelope.task, str)


def read_schedule(text: str) -> None:
    try:
        found = as_schedule(text)
        assert found.plain()
    except ScheduleError as error:
        assert str(error)


def read_plain(text: str) -> None:
    try:
        value = json.loads(text)
    except ValueError:
        return
    try:
        as_schedule(value)
    except ScheduleError as error:
        assert str(error)


def read_event(text: str) -> None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    parsed = parse(value, lambda arn: arn.rpartition(":")[2], 100.0, 200.0)
    assert all(isinstance(each, Delivery) for each in parsed.deliveries)
    assert all(each.why for each in parsed.unreadable)


def ask_api(text: str, api: Api | None = None) -> None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = {"rawPath": text}
    if not isinstance(value, dict):  # API Gateway sends objects
        value = {"body": text, "rawPath": "/tasks", "requestContext": {"http": {"method": "POST"}}}
    answer = (api or API)(value, None)
    assert isinstance(answer["statusCode"], int)
    assert 200 <= answer["statusCode"] < 500, answer
    json.loads(answer["body"] or "null")
    assert "Traceback" not in (answer["body"] or "")


APP = CloudQ(
    "safe", broker="memory://fuzz", backend="memory://fuzz", api_rate_limit=None, api_rate_limit_total=None
)


@APP.task(name="safe.add")
def add(x: int, y: int) -> int:
    raise AssertionError("the API sends tasks, it runs none")


API = make_api(APP, tasks=("safe.*",), auth="iam")
SECRETS = make_api(APP, tasks=("safe.*",), auth="hmac", keys={"shop": "0123456789abcdef" * 2})


@often(150)
@given(mutated("message") | st.text(max_size=200))
@example('{"task": "t", "args": ' + "[" * 100_000)
def test_messages(text: str) -> None:
    decode(text)


@often(150)
@given(mutated("cron") | st.text(max_size=40))
def test_cron_texts(text: str) -> None:
    read_schedule(text)


@often(100)
@given(mutated("plain"))
def test_stored_schedules(text: str) -> None:
    read_plain(text)


@often(150)
@given(mutated("event"))
def test_lambda_events(text: str) -> None:
    read_event(text)


@often(100)
@given(mutated("request"))
def test_api_requests(text: str) -> None:
    ask_api(text)


@often(100)
@given(mutated("request"))
def test_api_requests_under_shared_secrets(text: str) -> None:
    ask_api(text, SECRETS)


FEEDS = {
    "message": decode,
    "cron": read_schedule,
    "plain": read_plain,
    "event": read_event,
    "request": ask_api,
}


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("examples", [600, pytest.param(10_000, marks=pytest.mark.long)])
@pytest.mark.parametrize("kind", FEEDS)
def test_much_more_of_each(kind: str, examples: int) -> None:
    feed: Callable[[str], None] = FEEDS[kind]

    @often(examples)
    @given(mutated(kind))
    def run(text: str) -> None:
        feed(text)

    run()


@pytest.mark.parametrize("kind", FEEDS)
def test_what_was_found_once_is_refused_with_a_reason_each_time(kind: str) -> None:
    feed: Callable[[str], None] = FEEDS[kind]
    for text in FOUND[kind]:
        feed(text)


def test_the_seeds_themselves_are_right() -> None:
    for text in SEEDS["cron"]:
        assert as_schedule(text).plain()
    for text in SEEDS["plain"]:
        as_schedule(json.loads(text))
    for text in SEEDS["event"]:
        assert len(parse(json.loads(text), lambda arn: "q", 1.0, 2.0).deliveries) == 1
    assert [API(json.loads(text), None)["statusCode"] for text in SEEDS["request"]] == [202, 200]
