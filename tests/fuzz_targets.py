"""What fuzzing feeds, and with what: the readers of everything that comes in from outside (issue 10).

Each reader takes a text and fails (any exception) where cloudq does not answer as it must: with a value, or an
error of its own that gives a reason; it runs nothing. ``tests/fuzz`` calls them with changed and random texts.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC
from pathlib import Path

from cloudq import CloudQ
from cloudq.aws_lambda.api import Api, make_api
from cloudq.aws_lambda.events import parse
from cloudq.brokers.base import Delivery
from cloudq.errors import MessageError, ScheduleError
from cloudq.schedules.base import Schedule
from cloudq.schedules.reading import as_schedule
from cloudq.serializers import usual
from cloudq.serializers.codec import Codec

#: Saturday, 21 November 2026, in seconds since the epoch.
NOW = 1_795_219_200.0
#: Texts that went wrong once, as the hunt keeps them: a folder for each reader.
KEPT = Path(__file__).parent / "fuzz" / "found"
GOLDEN = Path(__file__).parent / "golden" / "wire"
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


CAREFUL = Codec()


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
    if (quick := usual.read(text, "M", 1.0)) is not None:  # then the careful reader says the same
        assert CAREFUL._read(CAREFUL._open(text, "q")[0], False, "M", 1.0) == quick


def follow(schedule: Schedule) -> None:
    """What can be read can be written, and has runs one after the other."""
    assert as_schedule(schedule.plain()).plain() == schedule.plain()
    first = schedule.next_after(NOW, UTC)
    assert first is None or first > NOW
    if first is not None:
        second = schedule.next_after(first, UTC)
        assert second is None or second > first


def read_schedule(text: str) -> None:
    try:
        follow(as_schedule(text))
    except ScheduleError as error:
        assert str(error)


def read_plain(text: str) -> None:
    try:
        value = json.loads(text)
    except ValueError:
        return
    try:
        follow(as_schedule(value))
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


def ask_under_shared_secrets(text: str) -> None:
    ask_api(text, SECRETS)


#: By the name of what is read; ``secrets`` are requests as well.
FEEDS: dict[str, Callable[[str], None]] = {
    "message": decode,
    "cron": read_schedule,
    "plain": read_plain,
    "event": read_event,
    "request": ask_api,
    "secrets": ask_under_shared_secrets,
}


def seeds_of(reader: str) -> list[str]:
    """Rightly written texts."""
    return SEEDS["request" if reader == "secrets" else reader]


def found_of(reader: str) -> list[str]:
    """What went wrong once, or came near it."""
    kept = sorted((KEPT / reader).glob("*"))
    return [
        *FOUND["request" if reader == "secrets" else reader],
        *(each.read_bytes().decode("utf-8", "replace") for each in kept),
    ]


def starts(reader: str) -> list[str]:
    """What a hunt begins with."""
    return [*seeds_of(reader), *found_of(reader)]
