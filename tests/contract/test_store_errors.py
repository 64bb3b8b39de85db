"""What stores on buckets say when the cloud says no, through the real SDKs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
import servers
from aws_fakes import FrozenClock, ScriptedPort
from blob_servers import (
    AZURITE_ACCOUNT,
    AZURITE_KEY,
    answering,
    losing,
    make_azure_container,
    make_gcs_bucket,
)

from cloudq.aws.errors import from_code
from cloudq.aws.port import AwsError, Call
from cloudq.backends import azure, gcs, s3
from cloudq.backends.base import ABSENT, BackendCapabilities, Matches, ResultBackend, Version
from cloudq.backends.blob import BlobBackend
from cloudq.backends.open import open_backend
from cloudq.errors import (
    AccessDenied,
    CloudQError,
    Conflict,
    CredentialsError,
    OperationalError,
    ServiceUnavailable,
    StoreNotFound,
    ValueTooLarge,
)

VERBS: dict[str, Callable[[ResultBackend], object]] = {
    "read": lambda store: store.read("a/b"),
    "write": lambda store: store.write("a/b", b"x", ABSENT),
    "delete": lambda store: store.delete("a/b"),
    "keys": lambda store: list(store.keys("a/")),
}


@pytest.fixture(autouse=True)
def few_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gcs, "RETRY_FOR", 0.05)
    monkeypatch.setattr(gcs, "RETRY_WAITS", (0.01, 0.01))
    monkeypatch.setattr(azure, "RETRIES", 0)


# --- Google Cloud Storage ---------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        (401, CredentialsError, "no usable Google credentials"),
        (403, AccessDenied, "grant roles/storage.objectUser on the bucket 'results'"),
        (404, StoreNotFound, "there is no bucket 'results'"),
        (429, ServiceUnavailable, "try again later"),
        (503, ServiceUnavailable, "try again later"),
        (400, OperationalError, "refused the request"),
    ],
)
def test_google_says_no(verb: str, status: int, kind: type[CloudQError], says: str) -> None:
    body = json.dumps({"error": {"code": status, "message": "because"}}).encode()
    with answering(lambda *_: (status, {"Content-Type": "application/json"}, body)) as url:
        store = open_backend(f"gs://results/p?endpoint_url={url}")
        with pytest.raises(kind, match=says) as error:
            VERBS[verb](store)
        store.close()
    assert type(error.value) is kind
    assert error.value.__cause__ is not None
    if status != 404:
        assert "gs://results/p/a/" in str(error.value)


def test_google_hanging_up_is_trouble_of_the_network() -> None:
    with answering(lambda *_: None) as url:
        store = open_backend(f"gs://results?endpoint_url={url}")
        for verb in VERBS.values():
            with pytest.raises(ServiceUnavailable, match="gs://results/a"):
                verb(store)


def test_credentials_that_google_refuses_are_said_to_be_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from google.api_core.exceptions import Unauthorized

    def refuse(*_: Any) -> None:
        raise Unauthorized("expired")

    monkeypatch.setattr(gcs.GcsBucket, "_get", refuse)
    with pytest.raises(CredentialsError, match=r"Google refused the credentials .*sign in again"):
        open_backend("gs://results").read("a/b")


def test_no_google_credentials_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import google.auth
    from google.auth.exceptions import DefaultCredentialsError, TransportError

    def none(*_: Any, **__: Any) -> None:
        raise DefaultCredentialsError("Your default credentials were not found.")

    monkeypatch.setattr(google.auth, "default", none)
    with pytest.raises(CredentialsError, match="gcloud auth application-default login"):
        open_backend("gs://results").read("a/b")

    def offline(*_: Any, **__: Any) -> None:
        raise TransportError("metadata server")

    monkeypatch.setattr(google.auth, "default", offline)
    with pytest.raises(ServiceUnavailable, match="sign-in"):
        open_backend("gs://results").read("a/b")


# --- Azure ------------------------------------------------------------------------------------


@contextlib.contextmanager
def azure_store(url: str, container: str = "results") -> Iterator[ResultBackend]:
    text = f"DefaultEndpointsProtocol=http;AccountName={AZURITE_ACCOUNT};AccountKey={AZURITE_KEY};"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MY_STORAGE", f"{text}BlobEndpoint={url}/{AZURITE_ACCOUNT};")
        store = open_backend(f"azureblob://{container}/p?connection_string_env=MY_STORAGE")
        yield store
        store.close()


def azure_says(status: int, code: str) -> Any:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>because\nRequestId:1</Message></Error>"
    headers = {"Content-Type": "application/xml", "x-ms-error-code": code}
    return answering(lambda *_: (status, headers, body.encode()))


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("status", "code", "kind", "says"),
    [
        (401, "NoAuthenticationInformation", CredentialsError, "az login"),
        (403, "AuthenticationFailed", CredentialsError, "the machine's clock"),
        (403, "AuthorizationPermissionMismatch", AccessDenied, "Storage Blob Data Contributor"),
        (404, "ContainerNotFound", StoreNotFound, "there is no container 'results'"),
        (409, "ContainerBeingDeleted", StoreNotFound, "there is no container 'results'"),
        (409, "BlobImmutableDueToPolicy", OperationalError, "refused the request"),
        (412, "LeaseIdMissing", OperationalError, "LeaseIdMissing"),
        (413, "RequestBodyTooLarge", ValueTooLarge, "larger than a blob"),
        (503, "ServerBusy", ServiceUnavailable, "try again later"),
        (500, "InternalError", ServiceUnavailable, "try again later"),
    ],
)
def test_azure_says_no(verb: str, status: int, code: str, kind: type[CloudQError], says: str) -> None:
    with azure_says(status, code) as url, azure_store(url) as store, pytest.raises(kind, match=says) as error:
        VERBS[verb](store)
    assert type(error.value) is kind
    assert error.value.__cause__ is not None
    assert "RequestId" not in str(error.value)
    assert AZURITE_KEY not in str(error.value)


def test_azure_hanging_up_is_trouble_of_the_network() -> None:
    with answering(lambda *_: None) as url, azure_store(url) as store:
        for verb in VERBS.values():
            with pytest.raises(ServiceUnavailable, match="azureblob://results/p/a"):
                verb(store)


def test_a_large_blob_replaced_during_each_read_is_given_up() -> None:
    replaced = pytest.raises(ServiceUnavailable, match="was replaced during each of 4 reads")
    with azure_says(412, "ConditionNotMet") as url, azure_store(url) as store, replaced:
        store.read("a/b")


# --- S3 ---------------------------------------------------------------------------------------


def s3_store(**replies: Any) -> tuple[BlobBackend, ScriptedPort, FrozenClock]:
    port, clock = ScriptedPort(**replies), FrozenClock()
    bucket = s3.S3Bucket(port, "results", clock)
    return BlobBackend(bucket, "p/", "s3://results/p", BackendCapabilities(), clock), port, clock


def s3_error(code: str, status: int) -> AwsError:
    return AwsError(code, "because", status=status, service="s3", operation="Any")


OPERATIONS = {"read": "GetObject", "write": "PutObject", "delete": "DeleteObject", "keys": "ListObjectsV2"}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("code", "status", "kind", "says"),
    [
        ("NoSuchBucket", 404, StoreNotFound, "there is no S3 bucket 'results'"),
        ("InvalidBucketName", 400, StoreNotFound, "there is no S3 bucket 'results'"),
        ("PermanentRedirect", 301, StoreNotFound, "set \\?region= to the bucket's"),
        ("EntityTooLarge", 400, ValueTooLarge, "at most 5 GB"),
        ("InvalidRequest", 400, AwsError, "because"),
    ],
)
def test_s3_says_no(verb: str, code: str, status: int, kind: type[CloudQError], says: str) -> None:
    store, _, _ = s3_store(**{OPERATIONS[verb]: s3_error(code, status)})
    with pytest.raises(kind, match=says) as error:
        VERBS[verb](store)
    assert type(error.value) is kind


def test_s3_denying_a_read_may_mean_that_there_is_nothing() -> None:
    denied = from_code("AccessDenied", "because", 403, Call("s3", "GetObject", {"Bucket": "results"}))
    store, _, _ = s3_store(GetObject=denied, PutObject=denied)
    with pytest.raises(AccessDenied, match=r"object 'p/a/b'.*s3:ListBucket on 'results': grant both"):
        store.read("a/b")
    with pytest.raises(AccessDenied, match=r"object 'p/a/b'$"):
        store.write("a/b", b"")


def test_s3_says_409_to_writers_at_one_time_and_is_asked_again() -> None:
    busy, done = s3_error("ConditionalRequestConflict", 409), {"ETag": '"e"'}
    store, port, clock = s3_store(PutObject=[busy, busy, done])
    assert store.write("a/b", b"x", ABSENT) == ';"e"'
    assert [each.params["IfNoneMatch"] for each in port.calls] == ["*"] * 3
    assert len(clock.slept) == 2


@pytest.mark.parametrize(("code", "status"), [("PreconditionFailed", 412), ("NoSuchKey", 404)])
def test_s3_says_412_or_404_where_a_condition_is_not_met(code: str, status: int) -> None:
    refused, missing = s3_error(code, status), s3_error("NoSuchKey", 404)
    store, port, _ = s3_store(PutObject=refused, DeleteObject=refused, GetObject=missing)
    with pytest.raises(Conflict):
        store.write("a/b", b"x", Matches(Version(';"e"')))
    with pytest.raises(Conflict):
        store.delete("a/b", Matches(Version(';"e"')))
    assert [each.params.get("IfMatch") for each in port.calls] == ['"e"', None, '"e"', None]


def test_s3_listings_are_read_page_by_page() -> None:
    pages = [
        {"Contents": [{"Key": "p/a/2"}], "IsTruncated": True, "NextContinuationToken": "t"},
        {"Contents": [{"Key": "p/a/1"}], "IsTruncated": False},
    ]
    store, port, _ = s3_store(ListObjectsV2=pages)
    assert list(store.keys("a/")) == ["a/1", "a/2"]
    assert [each.params.get("ContinuationToken") for each in port.calls] == [None, "t"]
    assert all(each.params["Delimiter"] == "/" for each in port.calls)


# --- a reply that is lost on the way ----------------------------------------------------------


class LoseFirst:
    """Loses the reply to the first request of a method."""

    def __init__(self, *methods: str) -> None:
        self.methods = methods
        self.lost = 0

    def __call__(self, method: str, path: str) -> bool:
        if method in self.methods and not self.lost:
            self.lost += 1
            return True
        return False


def writes_once_in_spite_of(lose: LoseFirst, store: ResultBackend, key: str) -> None:
    version = store.write(key, b"mine", ABSENT)
    assert lose.lost == 1
    entry = store.read(key)
    assert entry is not None
    assert (entry.value, entry.version) == (b"mine", version)
    lose.lost = 0
    version = store.write(key, b"again", Matches(version))
    assert lose.lost == 1
    entry = store.read(key)
    assert entry is not None
    assert (entry.value, entry.version) == (b"again", version)
    with pytest.raises(Conflict):
        store.write(key, b"other", ABSENT)


def test_a_lost_reply_of_s3s_is_no_conflict(moto_url: str, unique: str) -> None:
    boto3.client("s3", endpoint_url=moto_url).create_bucket(Bucket=unique)
    lose = LoseFirst("PUT")
    with losing(moto_url, lose) as url:
        store = open_backend(f"s3://{unique}?endpoint_url={url}")
        writes_once_in_spite_of(lose, store, "a/b")
        store.close()


def test_a_lost_reply_of_googles_is_no_conflict(
    fake_gcs_url: str, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gcs, "RETRY_FOR", 10.0)
    make_gcs_bucket(fake_gcs_url, unique)
    lose = LoseFirst("POST")
    with losing(fake_gcs_url, lose) as url:
        store = open_backend(f"gs://{unique}?endpoint_url={url}")
        writes_once_in_spite_of(lose, store, "a/b")
        store.close()


def test_a_lost_reply_of_azures_is_no_conflict(
    azurite: str, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(azure, "RETRIES", 2)
    monkeypatch.setattr(azure, "RETRY_FIRST", 0)
    make_azure_container(azurite, unique)
    upstream = azurite.partition("BlobEndpoint=")[2].rpartition("/")[0]
    lose = LoseFirst("PUT")
    with losing(upstream, lose) as url, azure_store(url, unique) as store:
        writes_once_in_spite_of(lose, store, "a/b")


def test_a_closed_port_is_trouble_of_the_network() -> None:
    url = f"http://127.0.0.1:{servers.free_port()}"
    with pytest.raises(ServiceUnavailable):
        open_backend(f"gs://results?endpoint_url={url}").read("a/b")
    with azure_store(url) as store, pytest.raises(ServiceUnavailable):
        store.read("a/b")
