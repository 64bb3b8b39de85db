"""A password in a URL is refused, and is in no message, log line, repr or traceback (issue 10)."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cloudq import CloudQ
from cloudq.backends.open import open_backend
from cloudq.brokers.claimcheck import open_place
from cloudq.brokers.open import open_broker
from cloudq.cli.main import cli
from cloudq.errors import CloudQError, ImproperlyConfigured
from cloudq.url import Url

PARTS = ("hunter2", "swordfish")
SCHEMES = [
    "sqs",
    "memory",
    "sqlite",
    "file",
    "dynamodb",
    "s3",
    "gs",
    "azureblob",
    "redis",
    "amqp",
    "x y",
    "SQS",
]
#: Where a password may stand; USER and PASSWORD are filled in.
SHAPES = [
    "SCHEME://USER:PASSWORD@host/path",
    "SCHEME://:PASSWORD@host",
    "SCHEME://PASSWORD@host",
    "SCHEME://USER:PASSWORD@",
    "SCHEME:USER:PASSWORD@host",
    "SCHEME:/USER:PASSWORD@host",
    "USER:PASSWORD@host://x",
    "USER:PASSWORD@host",
    "SCHEME://?endpoint_url=http://USER:PASSWORD@host:4566",
    "SCHEME://bucket/prefix?endpoint_url=https://USER:PASSWORD@host",
    "SCHEME://bucket?large=s3://USER:PASSWORD@bucket",
    "SCHEME://bucket+s3://USER:PASSWORD@bucket",
    "SCHEME://bucket?account_url=https://USER:PASSWORD@a.blob.core.windows.net",
    "AccountName=USER;AccountKey=PASSWORD;EndpointSuffix=core.windows.net",
]
OPENERS: list[Callable[[str], Any]] = [
    Url.parse,
    open_broker,
    open_backend,
    open_place,
    lambda url: CloudQ("safe", broker=url).broker,
    lambda url: CloudQ("safe", backend=url).backend,
    lambda url: CloudQ("safe", broker="memory://", broker_large_messages=url).codec,
]


@st.composite
def urls(draw: Callable[..., Any]) -> str:
    between = draw(st.text("!$%&'()*+,;=:~-_.|[]{}^ \x00é℀@/?#", max_size=6))
    password = between.join(PARTS)
    shape = draw(st.sampled_from(SHAPES))
    if shape == "SCHEME://PASSWORD@host":  # with a slash in it, it is a host and a path
        password = password.replace("/", "").replace("?", "").replace("#", "")
    if "?" in shape:  # what ends a parameter's value ends the password
        password = password.replace("&", "").replace("+", "").replace("%", "")
    user = draw(st.sampled_from(["guest", "a.b", ""]))
    return (
        shape.replace("SCHEME", draw(st.sampled_from(SCHEMES)))
        .replace("USER", user)
        .replace("PASSWORD", password)
    )


def told(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(error)) + repr(error) + repr(error.args) + _chained(error)


def _chained(error: BaseException) -> str:
    """What Python prints besides, without its lines of source."""
    inner = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return told(inner) if inner is not None else ""


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(url=urls(), opener=st.sampled_from(OPENERS))
@example("sqs://u:hunter2℀swordfish@host", Url.parse)  # urlsplit's own error quotes it
@example("sqs://u:hunter2/swordfish@host", open_broker)
@example("sqs://u:hunter2?swordfish@host", open_broker)
@example("sqs://[hunter2swordfish@host", open_broker)
def test_a_password_in_a_url_is_told_to_nobody(
    caplog: pytest.LogCaptureFixture, url: str, opener: Callable[[str], Any]
) -> None:
    with caplog.at_level(logging.DEBUG):
        try:
            opened = opener(url)
        except CloudQError as error:
            said = told(error)
        else:  # it was taken for something else: then it is not shown either
            said = repr(opened) + str(getattr(opened, "url", "")) + str(opened)
    said += caplog.text
    caplog.clear()
    assert not [each for each in PARTS if each in said], said


@pytest.mark.parametrize(
    "url", ["sqs://?endpoint_url=http://u:p@h", "dynamodb://t?endpoint_url=http://p@h", "s3://u:p@b"]
)
def test_credentials_in_a_url_or_in_a_parameter_of_it_are_refused(url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="credentials do not belong"):
        Url.parse(url)


def test_what_looks_secret_is_starred_wherever_a_url_is_shown() -> None:
    for name in ("sas", "connection_string", "account_key", "token"):
        url = Url.parse(f"azureblob://container?{name}=hunter2swordfish")
        assert "hunter2" not in f"{url} {url!r}"
        assert name in str(url)


def test_a_number_sign_is_refused_instead_of_cutting_the_url_short() -> None:
    with pytest.raises(ImproperlyConfigured, match="%23"):
        Url.parse("s3://bucket/prefix#1")


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/a@b/c:d@e",
        "sqlite:////tmp/a:b@c.db",
        "sqs://?region=eu-west-1&endpoint_url=http://127.0.0.1:4566",
        "dynamodb://table?profile=me@work",
        "dynamodb://table?large=s3://bucket/a@b",
    ],
)  # fmt: skip
def test_an_at_sign_elsewhere_is_no_password(url: str) -> None:
    Url.parse(url)


@pytest.mark.parametrize(
    "url", ["sqs://u:hunter2swordfish@host", "u:hunter2swordfish@host", "redis://:hunter2swordfish@h"]
)
def test_the_command_line_does_not_tell_it_either(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLOUDQ_BROKER_URL", url)
    for arguments in (["worker"], ["doctor"], ["call", "t"], ["queues", "list"]):
        done = CliRunner().invoke(cli, arguments)
        assert done.exit_code != 0
        assert "hunter2" not in done.output + done.stderr + repr(done.exception)
