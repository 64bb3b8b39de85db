"""The DynamoDB store keeps the backend contract: over boto3 on moto, over the lean driver on ministack,
and with first writes in groups."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from cloudq.aws.boto import BotoPort
from cloudq.aws.lean import LeanPort
from cloudq.aws.port import Answer, Call, Port
from cloudq.backends.dynamodb import MAX_VALUE, DynamoBackend
from cloudq.testing.contracts import BackendContract

#: moto counts a binary value's base64, and so refuses a third earlier than DynamoDB does.
MOTO_MAX = 300_000


class OneAtATime:
    """A port to moto, which checks a condition and writes in two steps that other requests may come between."""

    def __init__(self, port: BotoPort | LeanPort) -> None:
        self._port = port
        self._lock = threading.Lock()

    @property
    def region(self) -> str:
        return self._port.region

    def call(self, call: Call) -> Answer:
        with self._lock:
            return self._port.call(call)

    def close(self) -> None:
        self._port.close()


def table_at(
    port: Port, name: str, max_value: int = MAX_VALUE, group_commit: bool = False
) -> Iterator[DynamoBackend]:
    backend = DynamoBackend(port, f"contract-{name}", max_value=max_value, group_commit=group_commit)
    backend.create_table()
    yield backend
    backend.delete_table()
    backend.close()


class TestBotoOnMoto(BackendContract):
    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls, moto_url: str) -> Iterator[DynamoBackend]:
        yield from table_at(OneAtATime(BotoPort(endpoint_url=moto_url)), "boto", MOTO_MAX)


class TestLeanOnMinistack(BackendContract):
    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls, ministack_url: str) -> Iterator[DynamoBackend]:
        yield from table_at(LeanPort(endpoint_url=ministack_url), "lean")


class TestGroupCommitOnMoto(BackendContract):
    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls, moto_url: str) -> Iterator[DynamoBackend]:
        port = OneAtATime(LeanPort(endpoint_url=moto_url))
        yield from table_at(port, "grouped", MOTO_MAX, group_commit=True)
