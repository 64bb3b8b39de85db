"""The HTTP API: both payload formats, who may come in, what may be sent, what is answered."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from esm import Context
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudq import CloudQ
from cloudq.aws_lambda.api import Api, make_api
from cloudq.aws_lambda.auth import signature
from cloudq.errors import ImproperlyConfigured, ServiceUnavailable
from cloudq.testing.clock import ManualClock

SECRET = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def app() -> Iterator[CloudQ]:
    unlimited = {"api_rate_limit": None, "api_rate_limit_total": None}  # test_api_limits is about these
    with CloudQ("web", broker="memory://", backend="memory://", clock=ManualClock(), **unlimited) as app:

        @app.task(name="shop.add")
        def add(x: int, y: int = 0) -> int:
            return x + y

        @app.task(name="admin.wipe")
        def wipe() -> None:
            raise AssertionError

        yield app


@pytest.fixture
def api(app: CloudQ) -> Api:
    return make_api(app, tasks=("shop.*",), auth="iam")


def v2(
    method: str,
    path: str,
    body: Any = None,
    *,
    caller: str | None = "arn:aws:iam::1:user/a",
    query: str = "",
    **headers: str,
) -> dict[str, Any]:
    """A Function URL's event."""
    context: dict[str, Any] = {"http": {"method": method, "path": path}, "stage": "$default"}
    if caller:
        context["authorizer"] = {"iam": {"userArn": caller}}
    return {
        "version": "2.0",
        "rawPath": path,
        "rawQueryString": query,
        "queryStringParameters": dict(each.split("=") for each in query.split("&") if each) or None,
        "headers": headers,
        "requestContext": context,
        "body": body if isinstance(body, str | None) else json.dumps(body),
        "isBase64Encoded": False,
    }


def v1(
    method: str, path: str, body: Any = None, caller: str | None = "arn:aws:iam::1:user/a"
) -> dict[str, Any]:
    """A REST API's event."""
    return {
        "httpMethod": method,
        "path": path,
        "headers": {"Content-Type": "application/json"},
        "queryStringParameters": None,
        "requestContext": {"stage": "prod", "identity": {"userArn": caller}},
        "body": None if body is None else json.dumps(body),
        "isBase64Encoded": False,
    }


def ask(api: Api, event: Any) -> tuple[int, dict[str, Any]]:
    found = api(event, Context(30.0))
    assert found["headers"]["content-type"] == "application/json"
    return found["statusCode"], json.loads(found["body"])


# --- tasks and results ------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [v1, v2])
def test_a_task_is_sent_and_its_result_read(app: CloudQ, api: Api, make: Callable[..., Any]) -> None:
    status, sent = ask(api, make("POST", "/tasks", {"task": "shop.add", "args": [1], "kwargs": {"y": 2}}))
    assert status == 202
    assert ask(api, make("GET", f"/tasks/{sent['id']}")) == (200, {"id": sent["id"], "state": "PENDING"})

    [delivery] = app.broker.receive("cloudq", 10, 0.0, 60.0)
    from cloudq.execution.call import NoWatch

    app.lifecycle("test").run(delivery, NoWatch())
    status, found = ask(api, make("GET", f"/tasks/{sent['id']}"))
    assert (status, found["state"], found["result"]) == (200, "SUCCESS", 3)


def test_a_failure_is_told_by_its_type_and_message_without_the_traceback(app: CloudQ, api: Api) -> None:
    record = app.apply_task("shop.add", (1, "x"), task_id="t1")
    assert app.store is not None
    app.store.finish(app.AsyncResult("t1")._read() if record is None else record._read())
    status, found = ask(api, v2("GET", "/tasks/t1"))
    assert status == 200
    assert found["state"] == "FAILURE"
    assert set(found["error"]) == {"type", "message"}
    assert "traceback" not in found


def test_options_reach_the_message(app: CloudQ, api: Api) -> None:
    call = {
        "task": "shop.add",
        "args": [1],
        "options": {"task_id": "mine", "expires": "2100-01-01T00:00:00+00:00"},
    }
    assert ask(api, v2("POST", "/tasks", call))[1]["id"] == "mine"
    [delivery] = app.broker.receive("cloudq", 10, 0.0, 60.0)
    envelope = app.codec.decode(delivery.body, "cloudq", delivery.message_id)
    assert (envelope.id, envelope.expires) == ("mine", 4102444800.0)


def test_a_body_in_base64_and_a_stage_in_the_path(api: Api) -> None:
    event = v2("POST", "/prod/tasks", base64.b64encode(b'{"task": "shop.add", "args": [1]}').decode())
    event["isBase64Encoded"] = True
    event["requestContext"]["stage"] = "prod"
    assert ask(api, event)[0] == 202


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ("{", 400, "not JSON"),
        ("[1]", 400, "object"),
        ({}, 400, "which task"),
        ({"task": "admin.wipe"}, 403, "may not be called"),
        ({"task": "shop.add", "args": {}}, 400, "array"),
        ({"task": "shop.add"}, 400, "x"),
        ({"task": "shop.add", "args": [1], "kwargz": {}}, 400, "did you mean kwargs"),
        ({"task": "shop.add", "args": [1], "options": {"countdwn": 1}}, 400, "did you mean countdown"),
        ({"task": "shop.add", "args": [1], "options": {"countdown": "soon"}}, 400, "countdown"),
        ({"task": "shop.add", "args": [1], "options": {"eta": "soon"}}, 400, "eta"),
        ({"task": "shop.add", "args": [1], "options": {"queue": "other"}}, 400, "queue"),
        ({"task": "shop.add", "args": ["x" * 300_000]}, 413, "longer"),
    ],
)
def test_what_is_wrong_with_a_call_is_said(api: Api, body: Any, status: int, words: str) -> None:
    got, found = ask(api, v2("POST", "/tasks", body))
    assert got == status
    assert words in found["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/tasks", 405), ("DELETE", "/tasks/x", 405), ("GET", "/tasks/a/b", 404)],
)
def test_what_is_not_there(api: Api, method: str, path: str, status: int) -> None:
    assert ask(api, v2(method, path))[0] == status


def test_waiting_ends_with_the_request(app: CloudQ, api: Api) -> None:
    assert ask(api, v2("GET", "/tasks/x", query="wait=0.01"))[1]["state"] == "PENDING"
    assert ask(api, v2("GET", "/tasks/x", query="wait=long"))[0] == 400


def test_a_service_that_is_away_is_a_503(app: CloudQ, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any) -> None:
        raise ServiceUnavailable("away: secret-host:1234")

    monkeypatch.setattr(app.backend, "read", away)
    status, found = ask(api, v2("GET", "/tasks/x"))
    assert status == 503
    assert "secret-host" not in found["error"]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    event=st.recursive(
        st.none() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["requestContext", "http", "method", "body", "headers", "rawPath", "isBase64Encoded"]
                ),
                inner,
                max_size=5,
            )
        ),
        max_leaves=12,
    )
)
def test_whatever_comes_is_answered(api: Api, event: Any) -> None:
    assert 400 <= ask(api, event)[0] < 500


# --- who may come in --------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [v1, v2])
def test_without_an_iam_caller_nobody_comes_in(api: Api, make: Callable[..., Any]) -> None:
    assert ask(api, make("POST", "/tasks", {"task": "shop.add", "args": [1]}, caller=None))[0] == 403


def signed(
    app: CloudQ, event: dict[str, Any], secret: str = SECRET, off: float = 0.0, key: str = "shop"
) -> Any:
    timestamp = str(int(app.clock.time() + off))
    method, path = event["requestContext"]["http"]["method"], event["rawPath"]
    sign = signature(secret, timestamp, method, path, event["rawQueryString"], (event["body"] or "").encode())
    event["headers"] = {"X-Cloudq-Key": key, "X-Cloudq-Timestamp": timestamp, "X-Cloudq-Signature": sign}
    return event


@pytest.fixture
def secret_api(app: CloudQ) -> Api:
    return make_api(app, tasks=("shop.add",), auth="hmac", keys={"shop": SECRET})


CALL = {"task": "shop.add", "args": [1]}


def test_a_signed_request_comes_in_once(app: CloudQ, secret_api: Api) -> None:
    event = signed(app, v2("POST", "/tasks", CALL, caller=None))
    assert ask(secret_api, event)[0] == 202
    assert ask(secret_api, event)[0] == 409, "played again"
    assert app.broker.depth("cloudq").total == 1
    look = signed(app, v2("GET", "/tasks/x", caller=None))
    assert ask(secret_api, look)[0] == ask(secret_api, look)[0] == 200


@pytest.mark.parametrize("off", [-301, 301])
def test_an_old_or_early_signature_does_not(app: CloudQ, secret_api: Api, off: float) -> None:
    status, found = ask(secret_api, signed(app, v2("POST", "/tasks", CALL, caller=None), off=off))
    assert status == 401
    assert "anew" in found["error"]


def test_whatever_is_changed_spoils_the_signature(app: CloudQ, secret_api: Api) -> None:
    good = signed(app, v2("POST", "/tasks", CALL, caller=None))
    changes: list[Callable[[dict[str, Any]], Any]] = [
        lambda e: e.update(body=json.dumps({**CALL, "args": [2]})),
        lambda e: e.update(rawPath="/tasks/"),
        lambda e: e.update(rawQueryString="wait=1"),
        lambda e: e["requestContext"]["http"].update(method="PUT"),
        lambda e: e["headers"].update({"X-Cloudq-Timestamp": str(int(app.clock.time()) + 1)}),
        lambda e: e["headers"].update({"X-Cloudq-Key": "nobody"}),
        lambda e: e["headers"].update({"X-Cloudq-Signature": "ä" * 64}),
        lambda e: e["headers"].clear(),
    ]
    for change in changes:
        bad = json.loads(json.dumps(good))
        change(bad)
        assert ask(secret_api, bad)[0] == 401
    assert ask(secret_api, good)[0] == 202


def test_nothing_is_open_by_default(app: CloudQ) -> None:
    with pytest.raises(ImproperlyConfigured, match="CLOUDQ_API_TASKS"):
        make_api(app, auth="iam")
    with pytest.raises(ImproperlyConfigured, match="CLOUDQ_API_AUTH"):
        make_api(app, tasks=("a",))
    with pytest.raises(ImproperlyConfigured, match="CLOUDQ_API_KEYS"):
        make_api(app, tasks=("a",), auth="hmac")
    with pytest.raises(ImproperlyConfigured, match="shorter"):
        make_api(app, tasks=("a",), auth="hmac", keys={"k": "short"})


def test_the_pages_recipe_signs_what_the_api_takes(app: CloudQ, secret_api: Api) -> None:
    import re
    from pathlib import Path

    page = (Path(__file__).parents[3] / "docs" / "lambda.md").read_text("utf-8")
    [recipe] = re.findall(r"```python\n(import hashlib.*?)```", page, re.DOTALL)
    found: dict[str, Any] = {}
    exec(recipe, found)
    found["time"] = app.clock
    event = v2("POST", "/tasks", CALL, caller=None)
    event["headers"] = found["headers"]("shop", SECRET, "POST", "/tasks", "", event["body"].encode())
    assert ask(secret_api, event)[0] == 202
