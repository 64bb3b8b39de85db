"""The HTTP API under a crowd: so many requests per caller and in all, and what every answer carries (issue 10)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from cloudq import CloudQ
from cloudq.aws_lambda.api import Api, make_api
from cloudq.aws_lambda.auth import signature
from cloudq.clock import SYSTEM_CLOCK
from cloudq.errors import ImproperlyConfigured, ServiceUnavailable
from cloudq.testing.clock import ManualClock

SECRET = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_800_000_000.0)


@pytest.fixture
def app(clock: ManualClock) -> Iterator[CloudQ]:
    with made(clock, "memory://") as app:
        yield app


def made(clock: ManualClock | None, backend: str, **settings: Any) -> CloudQ:
    settings = {"api_rate_limit": "3/s", "api_rate_limit_total": "5/s", **settings}
    app = CloudQ("web", broker="memory://", backend=backend, clock=clock or SYSTEM_CLOCK, **settings)

    @app.task(name="shop.add")
    def add(x: int) -> int:
        raise AssertionError("the API sends tasks, it runs none")

    return app


def copy_of(app: CloudQ, auth: str = "iam") -> Api:
    """One of Lambda's copies of the function."""
    return make_api(app, tasks=("shop.*",), auth=auth, keys={"shop": SECRET, "till": SECRET[::-1]})


def event(
    caller: str | None = "arn:aws:iam::1:user/a", body: str | None = None, **headers: str
) -> dict[str, Any]:
    method, path = ("GET", "/tasks/T1") if body is None else ("POST", "/tasks")
    return {
        "rawPath": path,
        "headers": headers,
        "requestContext": {
            "http": {"method": method, "path": path, "sourceIp": "192.0.2.7"},
            "authorizer": {"iam": {"userArn": caller}} if caller else None,
        },
        "body": body,
    }


def signed(clock: ManualClock, key: str = "shop", body: str | None = None) -> dict[str, Any]:
    found = event(None, body)
    now, http = str(int(clock.time())), found["requestContext"]["http"]
    secret = {"shop": SECRET, "till": SECRET[::-1]}.get(key, "x" * 32)
    sign = signature(secret, now, http["method"], http["path"], "", (body or "").encode())
    found["headers"] = {"x-cloudq-key": key, "x-cloudq-timestamp": now, "x-cloudq-signature": sign}
    return found


def statuses(api: Api, *events: dict[str, Any]) -> list[int]:
    return [api(each)["statusCode"] for each in events]


def test_a_caller_who_asks_too_often_is_told_when_to_come_back(app: CloudQ, clock: ManualClock) -> None:
    api = copy_of(app)
    assert statuses(api, *[event()] * 3) == [200] * 3
    answer = api(event())
    assert answer["statusCode"] == 429
    assert int(answer["headers"]["retry-after"]) >= 1
    assert "3/s" in json.loads(answer["body"])["error"]
    assert statuses(api, event("arn:aws:iam::1:user/b")) == [200], "others are served"
    clock.advance(float(answer["headers"]["retry-after"]))
    assert statuses(api, event()) == [200]


def test_a_callers_limit_holds_across_all_copies_of_the_function(app: CloudQ) -> None:
    assert [status for _ in range(5) for status in statuses(copy_of(app), event())].count(200) == 3


def test_all_callers_together_have_a_limit(app: CloudQ) -> None:
    api = copy_of(app)
    found = statuses(api, *[event(f"arn:aws:iam::1:user/{name}") for name in "abcdefgh"])
    assert found.count(200) == 5
    assert set(found) == {200, 429}


def test_a_role_is_one_caller_whatever_it_calls_its_sessions(app: CloudQ) -> None:
    role = "arn:aws:sts::1:assumed-role/shop/"
    assert statuses(copy_of(app), *[event(f"{role}{n}") for n in range(4)]) == [200, 200, 200, 429]


def test_each_key_has_its_own_limit(app: CloudQ, clock: ManualClock) -> None:
    api = copy_of(app, "hmac")
    assert statuses(api, *[signed(clock)] * 4) == [200, 200, 200, 429]
    assert statuses(api, signed(clock, "till")) == [200]


def test_a_request_that_came_too_early_is_not_used_up(app: CloudQ, clock: ManualClock) -> None:
    api = copy_of(app, "hmac")
    statuses(api, *[signed(clock)] * 3)
    call = signed(clock, body='{"task": "shop.add", "args": [1]}')
    assert statuses(api, call) == [429]
    clock.advance(2.0)
    assert statuses(api, call, call) == [202, 409]


def test_strangers_are_counted_by_address_and_make_nobody_write_to_the_store(
    app: CloudQ, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = copy_of(app, "hmac")

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a stranger reached the store")

    with monkeypatch.context() as patch:
        for verb in ("read", "read_many", "write"):
            patch.setattr(app.backend, verb, never)
        assert statuses(api, *[signed(clock, "nobody")] * 4) == [401, 401, 401, 429]
    assert statuses(api, signed(clock)) == [200], "who has a key comes in from there all the same"


def test_without_a_results_store_limit_and_replays_are_kept_per_copy(clock: ManualClock) -> None:
    with made(clock, "disabled://") as app:
        api = copy_of(app, "hmac")
        call = signed(clock, body='{"task": "shop.add", "args": [1]}')
        assert statuses(api, call, call, call, call) == [202, 409, 409, 429]


def test_while_the_store_is_away_limits_hold_for_this_copy_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise ServiceUnavailable("away")

    with made(None, "memory://", api_rate_limit="3/d") as app:
        api = copy_of(app)
        for verb in ("read", "write"):
            monkeypatch.setattr(app.backend, verb, away)
        call = event(body='{"task": "shop.add", "args": [1]}')
        assert statuses(api, call, call, call, call) == [202, 202, 202, 429]


def test_limits_can_be_turned_off(clock: ManualClock) -> None:
    with made(clock, "memory://", api_rate_limit=None, api_rate_limit_total="0") as app:
        assert set(statuses(copy_of(app), *[event()] * 20)) == {200}


def test_a_quiet_minute_is_worth_as_many_requests_at_once(clock: ManualClock) -> None:
    with made(clock, "memory://", api_rate_limit="4/m", api_rate_limit_total=None) as app:
        assert statuses(copy_of(app), *[event()] * 5) == [200] * 4 + [429]


@pytest.mark.parametrize("name", ["api_rate_limit", "api_rate_limit_total"])
def test_a_limit_that_is_none_is_refused_by_name(clock: ManualClock, name: str) -> None:
    with made(clock, "memory://", **{name: "often"}) as app, pytest.raises(ImproperlyConfigured, match=name):
        copy_of(app)


@pytest.mark.parametrize(
    "asked",
    [
        event(),
        event(None),
        event(body="{"),
        {},
        {"requestContext": {"http": {"method": "GET", "path": "//evil.example/%0d%0aLocation: x"}}},
    ],
)
def test_every_answer_has_the_headers_that_keep_browsers_from_harm(app: CloudQ, asked: Any) -> None:
    answer = copy_of(app)(asked)
    headers = answer["headers"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["strict-transport-security"].startswith("max-age=")
    assert headers["cache-control"] == "no-store"
    assert headers["content-type"] == "application/json"
    assert not 300 <= answer["statusCode"] < 400, "nothing here redirects"
    assert not {"location", "access-control-allow-origin", "set-cookie"} & set(headers)


def test_an_error_of_ours_tells_the_caller_nothing_of_the_inside(
    app: CloudQ, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("secret-table-name in /var/task/shop.py")

    monkeypatch.setattr(app, "send_task", broken)
    answer = copy_of(app)(event(body='{"task": "shop.add", "args": [1]}'))
    assert answer["statusCode"] == 500
    assert "secret" not in answer["body"]
    assert "Traceback" not in answer["body"]
    assert "secret-table-name" in caplog.text, "the log has it"


def test_who_calls_through_a_load_balancer_is_known_by_the_address_that_it_saw() -> None:
    from cloudq.aws_lambda.http import read

    asked = {
        "requestContext": {"elb": {}},
        "httpMethod": "GET",
        "path": "/tasks/x",
        "headers": {"X-Forwarded-For": "10.0.0.1, 203.0.113.9"},
    }
    assert read(asked, 100).address == "203.0.113.9"
