"""The results store on S3 keeps the contract, on both emulators."""

from __future__ import annotations

from collections.abc import Iterator

import boto3
import pytest

from cloudq.backends.base import ResultBackend
from cloudq.backends.open import open_backend
from cloudq.errors import CorruptRecord, StoreNotFound
from cloudq.testing.contracts.backend import BackendContract

BUCKET = "cloudq-contract"


class S3Contract(BackendContract):
    keys_hide_expired = False

    @pytest.fixture(scope="class")
    def backend(self, endpoint: str) -> Iterator[ResultBackend]:
        client = boto3.client("s3", endpoint_url=endpoint)
        client.create_bucket(Bucket=BUCKET)
        store = open_backend(f"s3://{BUCKET}/some/prefix?endpoint_url={endpoint}")
        yield store
        store.close()

    def test_a_bucket_that_is_not_there_is_named(self, endpoint: str) -> None:
        store = open_backend(f"s3://no-such-bucket-{BUCKET}?endpoint_url={endpoint}")
        for verb in (lambda: store.read("a/b"), lambda: store.write("a/b", b""), lambda: store.delete("a/b")):
            with pytest.raises(StoreNotFound, match="there is no S3 bucket 'no-such-bucket-"):
                verb()
        with pytest.raises(StoreNotFound):
            list(store.keys("a/"))

    def test_a_foreign_object_is_named(self, backend: ResultBackend, endpoint: str, unique: str) -> None:
        boto3.client("s3", endpoint_url=endpoint).put_object(
            Bucket=BUCKET, Key=f"some/prefix/x/{unique}", Body=b"{}"
        )
        with pytest.raises(CorruptRecord, match=f"s3://{BUCKET}/some/prefix/x/{unique} is not a document"):
            backend.read(f"x/{unique}")


class TestS3OnMoto(S3Contract):
    @pytest.fixture(scope="class")
    def endpoint(self, moto_url: str) -> str:
        return moto_url


class TestS3OnMinistack(S3Contract):
    @pytest.fixture(scope="class")
    def endpoint(self, ministack_url: str) -> str:
        return ministack_url
