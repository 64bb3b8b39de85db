"""The SQS broker keeps the broker contract on moto and on ministack."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cloudq.aws.boto import BotoPort
from cloudq.brokers.sqs import SqsBroker
from cloudq.testing.contracts import BrokerContract


def sqs_at(url: str) -> Iterator[SqsBroker]:
    broker = SqsBroker(BotoPort(endpoint_url=url), queue_name_prefix="contract-")
    yield broker
    broker.close()


class TestSqsOnMoto(BrokerContract):
    fences_former_holders = False
    remembers_dedup_ids = False

    @pytest.fixture(scope="class")
    @classmethod
    def broker(cls, moto_url: str) -> Iterator[SqsBroker]:
        yield from sqs_at(moto_url)

    def test_close_may_be_called_twice(self, moto_url: str) -> None:
        super().test_close_may_be_called_twice(SqsBroker(BotoPort(endpoint_url=moto_url)))


class TestSqsOnMinistack(BrokerContract):
    @pytest.fixture(scope="class")
    @classmethod
    def broker(cls, ministack_url: str) -> Iterator[SqsBroker]:
        yield from sqs_at(ministack_url)

    def test_close_may_be_called_twice(self, ministack_url: str) -> None:
        super().test_close_may_be_called_twice(SqsBroker(BotoPort(endpoint_url=ministack_url)))
