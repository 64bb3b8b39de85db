"""The SQS broker keeps the broker contract: over boto3 on moto, over the lean driver on ministack.

That both drivers say the same on both is ``tests/integration/test_drivers_agree.py``'s business.
"""

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


class TestBotoOnMoto(BrokerContract):
    fences_former_holders = False
    remembers_dedup_ids = False

    @pytest.fixture(scope="class")
    @classmethod
    def broker(cls, moto_url: str) -> Iterator[SqsBroker]:
        yield from sqs_at(moto_url, BotoPort)

    def test_close_may_be_called_twice(self, moto_url: str) -> None:
        super().test_close_may_be_called_twice(SqsBroker(BotoPort(endpoint_url=moto_url)))

    def test_racing_senders_and_receivers_lose_nothing(self, broker: SqsBroker, queue: str) -> None:
        pytest.skip("moto now and then gives one message to two receivers at once")

    def test_racing_receivers_never_get_the_same_message(self, broker: SqsBroker, queue: str) -> None:
        pytest.skip("moto now and then gives one message to two receivers at once")


class TestLeanOnMinistack(BrokerContract):
    @pytest.fixture(scope="class")
    @classmethod
    def broker(cls, ministack_url: str) -> Iterator[SqsBroker]:
        yield from sqs_at(ministack_url, LeanPort)

    def test_close_may_be_called_twice(self, ministack_url: str) -> None:
        super().test_close_may_be_called_twice(SqsBroker(LeanPort(endpoint_url=ministack_url)))
