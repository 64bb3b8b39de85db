"""The DynamoDB store keeps the backend contract: over boto3 on moto, over the lean driver on ministack."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cloudq.aws.boto import BotoPort
from cloudq.aws.lean import LeanPort
from cloudq.backends.dynamodb import MAX_VALUE, DynamoBackend
from cloudq.testing.contracts import BackendContract

Ports = type[BotoPort] | type[LeanPort]
#: moto counts a binary value's base64, and so refuses a third earlier than DynamoDB does.
MOTO_MAX = 300_000


def table_at(url: str, port: Ports, max_value: int = MAX_VALUE) -> Iterator[DynamoBackend]:
    backend = DynamoBackend(port(endpoint_url=url), f"contract-{port.__name__}", max_value=max_value)
    backend.create_table()
    yield backend
    backend.delete_table()
    backend.close()


class TestBotoOnMoto(BackendContract):
    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls, moto_url: str) -> Iterator[DynamoBackend]:
        yield from table_at(moto_url, BotoPort, MOTO_MAX)


class TestLeanOnMinistack(BackendContract):
    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls, ministack_url: str) -> Iterator[DynamoBackend]:
        yield from table_at(ministack_url, LeanPort)
