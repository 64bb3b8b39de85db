"""Stores and brokers from URLs, and tiers made of two."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from cloudq.backends.blob import BlobBackend
from cloudq.backends.dynamodb import DynamoBackend
from cloudq.backends.file import FileBackend
from cloudq.backends.open import open_backend
from cloudq.backends.tiered import TieredBackend
from cloudq.brokers.open import open_broker
from cloudq.brokers.sqs import SqsBroker
from cloudq.errors import ImproperlyConfigured, MissingExtra, UnknownScheme


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("file:///results", FileBackend),
        ("dynamodb://results", DynamoBackend),
        ("s3://bucket/prefix?region=eu-west-1", BlobBackend),
        ("gs://bucket/prefix?endpoint_url=http://127.0.0.1:1", BlobBackend),
        ("azureblob://results/prefix?account_url=https://a.blob.core.windows.net", BlobBackend),
    ],
)
def test_a_url_opens_its_store_without_any_call(url: str, kind: type) -> None:
    store = open_backend(url)
    assert isinstance(store, kind)
    assert store.url == url


def test_a_broker_url_opens_its_broker() -> None:
    assert isinstance(open_broker("sqs://?region=eu-west-1"), SqsBroker)
    with pytest.raises(UnknownScheme, match="'sqs'"):
        open_broker("sqqs://")


@pytest.mark.parametrize(
    "url",
    [
        "dynamodb://t?large=s3://bucket/p&region=eu-west-1",
        "dynamodb://t?region=eu-west-1+s3://bucket/p",
        "dynamodb://t?large_over=100&region=eu-west-1+s3://bucket/p",
    ],
)
def test_two_stores_are_joined_by_large_or_by_a_plus(url: str) -> None:
    store = open_backend(url)
    assert isinstance(store, TieredBackend)
    assert store.url == "dynamodb://t?region=eu-west-1+s3://bucket/p"
    assert store.capabilities.max_value is None


def test_the_second_store_may_have_parameters_of_its_own() -> None:
    store = open_backend("dynamodb://t?large=s3://bucket/p?region=eu-west-1%26profile=x")
    assert store.url == "dynamodb://t+s3://bucket/p?region=eu-west-1&profile=x"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("file://results", "three slashes"),
        ("file:///", "three slashes"),
        ("file:///x?fsnyc=1", "did you mean 'fsync'"),
        ("s3://", "names a bucket"),
        ("s3://b?regoin=x", "did you mean 'region'"),
        ("s3://b/a//b", "empty segment"),
        ("gs:///x", "names a bucket"),
        ("azureblob://", "names a container"),
        ("azureblob://c", "AZURE_STORAGE_CONNECTION_STRING"),
        ("azureblob://c?account_url=a.blob.core.windows.net", "is like https://"),
        ("azureblob://c?account_url=https://a/?sv=1%26sig=SECRET", "no shared access signature"),
        ("azureblob://c?account_url=https://a&connection_string_env=X", "not both"),
        ("azureblob://c?connection_string=SECRET", "no parameter 'connection_string'"),
        ("dynamodb://t?large_over=1", "needs large="),
        ("dynamodb://t?large=s3://b&large_over=-1", "large_over is 0 to"),
        ("dynamodb://t?large=s3://b?large=gs://c", "cannot be tiered itself"),
        ("dynamodb://t+s3://b+gs://c", "two stores"),
        ("dynamodb://t?large=s3://b+s3://c", "two stores"),
    ],
)
def test_a_wrong_url_says_what_to_change(url: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING", raising=False)
    with pytest.raises(ImproperlyConfigured) as error:
        open_backend(url)
    assert says in str(error.value)
    assert "SECRET" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "package", "extra"),
    [
        ("gs://bucket", "google.cloud.storage", "gcs"),
        ("azureblob://c?account_url=https://a", "azure.storage.blob", "azure"),
    ],
)
def test_a_missing_extra_is_named_with_the_command_that_installs_it(
    url: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == package:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=rf'pip install "cloudq-tasks\[{extra}\]"'):
        open_backend(url)


def test_a_relative_folder_stays_where_it_was_when_the_process_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_backend("file:///results")
    store.write("a/b", b"1")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    entry = store.read("a/b")
    assert entry is not None
    assert (tmp_path / "results" / "data" / "a" / "b.doc").exists()
    absolute = open_backend(f"file:///{tmp_path}/results")
    assert absolute.read("a/b") == entry
