"""Two stores as one keep the contract of one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from aws_fakes import FrozenClock

from cloudq.backends.base import ResultBackend
from cloudq.backends.dynamodb import DynamoBackend
from cloudq.backends.open import open_backend
from cloudq.backends.tiered import TieredBackend
from cloudq.testing.contracts.backend import BackendContract


class TestMemoryAndFile(BackendContract):
    """Every value over 0 bytes is a large one."""

    @pytest.fixture
    def backend(self, tmp_path: Path) -> Iterator[ResultBackend]:
        self.clock = FrozenClock(time.time())
        store = open_backend(f"memory://?large=file:///{tmp_path}&large_over=0", self.clock)
        yield store
        store.close()

    @pytest.fixture
    def now(self, backend: ResultBackend) -> Callable[[], float]:
        return self.clock.time

    @pytest.fixture
    def advance(self, backend: ResultBackend) -> Callable[[float], None]:
        return self.clock.sleep


class TestDynamoAndS3(BackendContract):
    """What does not fit into DynamoDB goes to S3."""

    @pytest.fixture(scope="class")
    def backend(self, ministack_url: str) -> Iterator[ResultBackend]:
        boto3.client("s3", endpoint_url=ministack_url).create_bucket(Bucket="cloudq-tier")
        store = open_backend(
            f"dynamodb://cloudq-tier?endpoint_url={ministack_url}&large_over=3"
            f"&large=s3://cloudq-tier/large?endpoint_url={ministack_url}"
        )
        assert isinstance(store, TieredBackend)
        assert isinstance(store._small, DynamoBackend)
        store._small.create_table()
        yield store
        store.close()
