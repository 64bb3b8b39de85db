"""Stores whose values are encrypted and signed keep the backend contract."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator

import pytest

from cloudq.backends.base import ResultBackend
from cloudq.backends.sealed import SealedBackend
from cloudq.security.encryption import Sealer
from cloudq.security.signing import KeyRing
from cloudq.testing.clock import ManualClock
from cloudq.testing.contracts import BackendContract
from cloudq.testing.stores import MemoryStore

AES = {"e1": base64.b64encode(bytes(range(32))).decode()}
ED = {"s1": "ed25519:" + base64.b64encode(bytes(range(32))).decode()}


class TestSealedMemory(BackendContract):
    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    def now(self, clock: ManualClock) -> Callable[[], float]:
        return clock.time

    @pytest.fixture
    def advance(self, clock: ManualClock) -> Callable[[float], None]:
        return clock.advance

    @pytest.fixture
    def backend(self, clock: ManualClock) -> Iterator[ResultBackend]:
        return SealedBackend(
            MemoryStore(clock),
            sealer=Sealer(AES, clock=clock),
            ring=KeyRing(ED, clock),
            required=True,
            clock=clock,
        )
