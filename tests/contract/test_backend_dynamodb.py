"""The DynamoDB store keeps the backend contract on moto and on ministack."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cloudq.aws.boto import BotoPort
from cloudq.backends.dynamodb import MAX_VALUE, DynamoBackend
from cloudq.testing.contracts import BackendContract


def table_at(url: str, name: str, max_value: int = MAX_VALUE) -> Iterator[DynamoBackend]:
    backend = DynamoBackend(BotoPort(endpoint_url=url), name, max_value=max_value)
    backend.create_table()
    yield backend
    backend.delete_table()
    backend.close()


class TestDynamoOnMoto(BackendContract):
    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls, moto_url: str) -> Iterator[DynamoBackend]:
        # moto counts a binary value's base64, and so refuses a third earlier than DynamoDB does.
        yield from table_at(moto_url, "contract", max_value=300_000)


class TestDynamoOnMinistack(BackendContract):
    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls, ministack_url: str) -> Iterator[DynamoBackend]:
        yield from table_at(ministack_url, "contract")
