"""The results store on Google Cloud Storage keeps the contract, on fake-gcs-server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from blob_servers import make_gcs_bucket

from cloudq.backends import gcs
from cloudq.backends.base import ABSENT, ResultBackend
from cloudq.backends.open import open_backend
from cloudq.errors import StoreNotFound
from cloudq.testing.contracts.backend import BackendContract

BUCKET = "cloudq-contract"


class TestGcs(BackendContract):
    #: fake-gcs-server deletes whatever generation is asked for; Google does not.
    conditional_delete = False

    @pytest.fixture(scope="class")
    def backend(self, fake_gcs_url: str) -> Iterator[ResultBackend]:
        make_gcs_bucket(fake_gcs_url, BUCKET)
        store = open_backend(f"gs://{BUCKET}/some/prefix?endpoint_url={fake_gcs_url}")
        yield store
        store.close()

    def test_a_bucket_that_is_not_there_is_named(self, fake_gcs_url: str) -> None:
        store = open_backend(f"gs://no-such-bucket?endpoint_url={fake_gcs_url}")
        for verb in (lambda: store.read("a/b"), lambda: store.write("a/b", b"", ABSENT)):
            with pytest.raises(StoreNotFound, match="there is no bucket 'no-such-bucket'"):
                verb()
        with pytest.raises(StoreNotFound):
            list(store.keys("a/"))

    def test_a_delete_asks_for_the_generation_it_has_seen(
        self, backend: Any, unique: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The emulator ignores it, so at least the request is looked at."""
        from google.cloud.storage import Blob

        asked: list[Any] = []
        real = Blob.delete

        def delete(blob: Any, *args: Any, **options: Any) -> Any:
            asked.append(options["if_generation_match"])
            return real(blob, *args, **options)

        monkeypatch.setattr(Blob, "delete", delete)
        version = backend.write(f"t/{unique}", b"1")
        backend.delete(f"t/{unique}", gcs_matches(version))
        assert asked == [int(version.rpartition(";")[2])]

    def test_the_expiry_is_there_for_lifecycle_rules(
        self, backend: Any, fake_gcs_url: str, unique: str
    ) -> None:
        backend.write(f"t/{unique}", b"1", expires_at=2_000_000_000.5)
        bucket = gcs.GcsBucket(BUCKET, endpoint_url=fake_gcs_url)
        item = bucket._clients.get().bucket(BUCKET).get_blob(f"some/prefix/t/{unique}")
        assert item.custom_time.timestamp() == pytest.approx(2_000_000_000.5)
        assert item.metadata == {"cloudq-expires-at": "2000000000.5"}
        bucket.close()


def gcs_matches(version: Any) -> Any:
    from cloudq.backends.base import Matches

    return Matches(version)
