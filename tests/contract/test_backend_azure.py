"""The results store on Azure Blob Storage keeps the contract, on azurite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from blob_servers import AZURITE_KEY, make_azure_container

from cloudq.backends.base import ResultBackend
from cloudq.backends.open import open_backend
from cloudq.errors import CredentialsError, ImproperlyConfigured, StoreNotFound
from cloudq.testing.contracts.backend import BackendContract

CONTAINER = "cloudq-contract"


class TestAzure(BackendContract):
    @pytest.fixture(scope="class")
    def backend(self, azurite: str) -> Iterator[ResultBackend]:
        make_azure_container(azurite, CONTAINER)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite)
            store = open_backend(f"azureblob://{CONTAINER}/some/prefix")
            yield store
            store.close()

    def test_a_container_that_is_not_there_is_named(
        self, azurite: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MY_STORAGE", azurite)
        store = open_backend("azureblob://no-such-container?connection_string_env=MY_STORAGE")
        for verb in (lambda: store.read("a/b"), lambda: store.write("a/b", b""), lambda: store.delete("a/b")):
            with pytest.raises(StoreNotFound, match="there is no container 'no-such-container'"):
                verb()
        with pytest.raises(StoreNotFound):
            list(store.keys("a/"))
        store.close()

    def test_a_wrong_key_is_named_and_not_shown(self, azurite: str, monkeypatch: pytest.MonkeyPatch) -> None:
        wrong = "AAAA" + AZURITE_KEY[4:]
        monkeypatch.setenv("MY_STORAGE", azurite.replace(AZURITE_KEY, wrong))
        store = open_backend("azureblob://x-y-z?connection_string_env=MY_STORAGE")
        with pytest.raises(CredentialsError, match="MY_STORAGE") as error:
            store.read("a/b")
        assert wrong not in str(error.value)
        store.close()

    def test_a_connection_string_that_is_none_is_refused_without_showing_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MY_STORAGE", "secret nonsense")
        store = open_backend("azureblob://results?connection_string_env=MY_STORAGE")
        with pytest.raises(ImproperlyConfigured, match="MY_STORAGE holds no valid") as error:
            store.read("a/b")
        assert "nonsense" not in str(error.value)
