"""Credentials that AWS no longer takes: looked for anew where that can help, and told clearly where not."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aws_fakes import FrozenClock
from aws_script import GOOD, Script, failure, scripted

from cloudq.aws import boto, identity
from cloudq.aws.aiolean import AsyncLeanPort
from cloudq.aws.boto import BotoPort
from cloudq.aws.identity import Identity
from cloudq.aws.lean import LeanPort
from cloudq.aws.port import Call
from cloudq.errors import CredentialsError

SEND = Call("sqs", "SendMessage", {"QueueUrl": "http://q/1/orders", "MessageBody": "x"})
EXPIRED = failure("ExpiredTokenException")


@pytest.fixture
def server() -> Iterator[Script]:
    with scripted() as script:
        yield script


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The credentials file of a user with nothing else configured; now it says OLD."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    path = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    write(path, "OLD")
    return path


def write(path: Path, key: str) -> None:
    path.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = s\n")


def used(server: Script) -> list[str]:
    """The access keys of the requests so far."""
    found = []
    for _, headers, _ in server.requests:
        names = {name.lower(): value for name, value in headers.items()}
        match = re.search(r"Credential=(\w+)/", names["authorization"])
        assert match
        found.append(match[1])
    return found


class Sync:
    def __init__(self, server: Script) -> None:
        self.port: Any = LeanPort(endpoint_url=server.url, clock=FrozenClock())

    async def call(self) -> Any:
        return self.port.call(SEND)


class Async(Sync):
    def __init__(self, server: Script) -> None:
        self.port = AsyncLeanPort(endpoint_url=server.url, clock=FrozenClock())

    async def call(self) -> Any:
        return await self.port.call(SEND)


class Boto(Sync):
    def __init__(self, server: Script) -> None:
        self.port = BotoPort(endpoint_url=server.url, clock=FrozenClock())


@pytest.fixture(params=[Sync, Async, Boto])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[Sync]:
    monkeypatch.setattr(boto, "RENEW_PAUSE", 0.0)  # the first session counts as a look, too
    found: type[Sync] = request.param
    return found


async def test_new_credentials_of_the_file_are_found_once_the_old_ones_expired(
    kind: type[Sync], server: Script, keys: Path
) -> None:
    port = kind(server)
    await port.call()
    write(keys, "NEW")
    await port.call()  # nothing is wrong with the old ones yet
    server.answers = [EXPIRED, GOOD]
    await port.call()
    assert used(server) == ["OLD", "OLD", "OLD", "NEW"]


async def test_they_are_looked_for_once_in_a_while_and_not_at_every_call(
    kind: type[Sync], server: Script, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = kind(server)
    await port.call()
    monkeypatch.setattr(boto, "RENEW_PAUSE", 1000.0)
    if kind is Boto:
        port.port._mine.born -= 2000.0
    server.requests.clear()
    server.answers = [EXPIRED]
    for _ in range(3):
        with pytest.raises(CredentialsError, match="ExpiredTokenException"):
            await port.call()
    assert len(server.requests) == 4  # one of them twice
    write(keys, "NEW")
    monkeypatch.setattr(identity, "RENEW_PAUSE", 0.0)
    monkeypatch.setattr(boto, "RENEW_PAUSE", 0.0)
    server.answers = [EXPIRED, GOOD]
    await port.call()
    assert used(server)[-1] == "NEW"


async def test_credentials_of_the_environment_are_not_looked_for_and_the_error_says_what_to_do(
    server: Script, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    server.answers = [EXPIRED]
    for port in (Sync(server), Async(server)):
        server.requests.clear()
        with pytest.raises(
            CredentialsError, match="AWS_ACCESS_KEY_ID, which a running process never gets anew"
        ):
            await port.call()
        assert used(server) == ["ENV"]


def test_who_asks_after_a_renewal_of_somebody_elses_just_tries_again(keys: Path) -> None:
    mine = Identity("eu-west-1", None, None)
    before = time.monotonic()
    assert mine.credentials().access_key == "OLD"
    write(keys, "NEW")
    assert mine.renew(before)
    write(keys, "NEWER")
    assert mine.renew(before)  # its request was signed before that renewal
    assert mine.credentials().access_key == "NEW"
    assert not mine.renew(time.monotonic())


def test_credentials_that_cannot_be_loaded_are_an_error_that_heals(keys: Path) -> None:
    mine = Identity("eu-west-1", None, None)
    mine.credentials()
    keys.unlink()
    with pytest.raises(CredentialsError, match="no usable AWS credentials"):
        mine.renew(0.0)
    with pytest.raises(CredentialsError):
        mine.credentials()
    write(keys, "NEW")
    mine._session = None  # botocore read the files when the session was made
    assert mine.credentials().access_key == "NEW"
