"""The SQS broker keeps the broker contract on moto and on ministack, by either driver."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cloudq.aws.boto import BotoPort
from cloudq.aws.lean import LeanPort
from cloudq.brokers.sqs import SqsBroker
from cloudq.testing.contracts import BrokerContract


def sqs_at(url: str, port: type[BotoPort] | type[LeanPort]) -> Iterator[SqsBroker]:
    broker = SqsBroker(port(endpoint_url=url), queue_name_prefix="contract-")
    yield broker
    broker.close()


class OnMoto(BrokerContract):
    port: type[BotoPort] | type[LeanPort]
    fences_former_holders = False
    remembers_dedup_ids = False

    @pytest.fixture(scope="class")
    @classmethod
    def broker(cls, moto_url: str) -> Iterator[SqsBroker]:
        yield from sqs_at(moto_url, cls.port)

    def test_close_may_be_called_twice(self, moto_url: str) -> None:
        super().test_close_may_be_called_twice(SqsBroker(self.port(endpoint_url=moto_url)))


class OnMinistack(BrokerContract):
    port: type[BotoPort] | type[LeanPort]

    @pytest.fixture(scope="class")
    @classmethod
    def broker(cls, ministack_url: str) -> Iterator[SqsBroker]:
        yield from sqs_at(ministack_url, cls.port)

    def test_close_may_be_called_twice(self, ministack_url: str) -> None:
        super().test_close_may_be_called_twice(SqsBroker(self.port(endpoint_url=ministack_url)))


class TestLeanOnMoto(OnMoto):
    port = LeanPort


class TestLeanOnMinistack(OnMinistack):
    port = LeanPort


class TestBotoOnMinistack(OnMinistack):
    port = BotoPort


@pytest.mark.slow
class TestBotoOnMoto(OnMoto):
    port = BotoPort
