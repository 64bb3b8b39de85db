"""The embedded broker keeps the broker contract, in a file and in memory."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloudq.brokers.sqlite import SqliteBroker
from cloudq.clock import SYSTEM_CLOCK
from cloudq.testing.clock import ManualClock
from cloudq.testing.contracts import BrokerContract


class _Embedded(BrokerContract):
    creates_queues = True
    manual_clock = True

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    def advance(self, clock: ManualClock) -> Callable[[float], None]:
        return clock.advance


class TestMemory(_Embedded):
    @pytest.fixture
    def broker(self, clock: ManualClock) -> Iterator[SqliteBroker]:
        broker = SqliteBroker(None, clock)
        yield broker
        broker.close()

    @pytest.fixture
    def spare_broker(self) -> SqliteBroker:
        return SqliteBroker(None, SYSTEM_CLOCK)


class TestFile(_Embedded):
    @pytest.fixture
    def broker(self, tmp_path: Path, clock: ManualClock) -> Iterator[SqliteBroker]:
        broker = SqliteBroker(str(tmp_path / "queue.db"), clock)
        yield broker
        broker.close()

    @pytest.fixture
    def spare_broker(self, tmp_path: Path) -> SqliteBroker:
        return SqliteBroker(str(tmp_path / "spare.db"), SYSTEM_CLOCK)
