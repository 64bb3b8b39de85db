"""Large messages' texts: kept, read, verified and removed alike in every place there is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import boto3
import pytest
from azure.storage.blob import BlobServiceClient
from blob_servers import make_gcs_bucket

from cloudq.brokers.claimcheck import ClaimCheck, open_place
from cloudq.errors import (
    MessageTooLarge,
    OperationalError,
    PayloadDamaged,
    PayloadMissing,
    PayloadRefused,
    StoreNotFound,
)
from cloudq.message import PayloadRef

BUCKET = "cloudq-large-messages"


@pytest.fixture(scope="module")
def urls(
    moto_url: str,
    ministack_url: str,
    fake_gcs_url: str,
    azurite: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("large")
    for url in (moto_url, ministack_url):
        boto3.client("s3", endpoint_url=url).create_bucket(Bucket=BUCKET)
    make_gcs_bucket(fake_gcs_url, BUCKET)
    BlobServiceClient.from_connection_string(azurite).create_container(BUCKET)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite)
        yield {
            "memory": "memory://",
            "sqlite": f"sqlite:///{folder}/kept.db",
            "file": f"file:///{folder}/kept",
            "s3-moto": f"s3://{BUCKET}/pre/fix?endpoint_url={moto_url}",
            "s3-ministack": f"s3://{BUCKET}?endpoint_url={ministack_url}",
            "gs": f"gs://{BUCKET}/pre?endpoint_url={fake_gcs_url}",
            "azureblob": f"azureblob://{BUCKET}/pre",
        }


@pytest.fixture(params=["memory", "sqlite", "file", "s3-moto", "s3-ministack", "gs", "azureblob"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def claims(kind: str, urls: dict[str, str]) -> Iterator[ClaimCheck]:
    check = ClaimCheck([open_place(urls[kind])], most=3_000_000, expires=3600.0)
    yield check
    check.close()


def test_what_was_stored_is_read_and_then_removed(claims: ClaimCheck) -> None:
    text = "é\ufffe\U0001f600" + "x" * 1_200_000
    ref = claims.store(text)

    assert ref.size == len(text.encode())
    assert ref.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert ref.uri.startswith(claims.url)
    assert claims.load(ref) == text
    claims.discard(ref)
    claims.discard(ref)
    with pytest.raises(PayloadMissing, match="is not there"):
        claims.load(ref)


def test_the_same_text_stored_twice_is_two_objects(claims: ClaimCheck) -> None:
    first, second = claims.store("text"), claims.store("text")
    claims.discard(first)
    assert claims.load(second) == "text"


@pytest.mark.parametrize("announced", [1, 4, 10])
def test_another_length_or_content_than_announced_is_refused(claims: ClaimCheck, announced: int) -> None:
    ref = claims.store("12345")
    with pytest.raises(PayloadDamaged, match=f"the message says {announced}"):
        claims.load(replace(ref, size=announced))
    with pytest.raises(PayloadDamaged, match="SHA-256"):
        claims.load(replace(ref, sha256=hashlib.sha256(b"54321").hexdigest()))


def test_an_empty_object_is_damage_and_not_an_outage(claims: ClaimCheck) -> None:
    ref = claims.store("")
    assert claims.load(ref) == ""
    with pytest.raises(PayloadDamaged, match="has 0 bytes"):
        claims.load(replace(ref, size=2))


def test_a_reference_leads_nowhere_but_into_the_folder(claims: ClaimCheck) -> None:
    ref = claims.store("secret")
    name = ref.uri.removeprefix(claims.url)
    forged = [
        "s3://another-bucket/messages/" + name,
        claims.url.replace("messages/", "task/") + name,
        claims.url + "../messages/" + name,
        claims.url + "a/../" + name,
        claims.url + "./" + name,
        claims.url + "%2e%2e/" + name,
        claims.url + "/" + name,
        claims.url + name + "?x",
        claims.url + name + "\n",
        claims.url,
        claims.url + "n" * 600,
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        name,
    ]
    for uri in forged:
        for verb in (claims.load, claims.discard):
            with pytest.raises(PayloadRefused, match="is not followed: this app reads from"):
                verb(replace(ref, uri=uri))


def test_more_than_the_limit_is_neither_sent_nor_fetched(claims: ClaimCheck) -> None:
    with pytest.raises(MessageTooLarge, match="broker_large_messages_max is 3000000"):
        claims.store("x" * 3_000_001)
    with pytest.raises(PayloadRefused, match="broker_large_messages_max"):
        claims.load(PayloadRef(claims.url + "0" * 32, 3_000_001, "0" * 64))


def test_an_object_of_another_language_is_plain_text(urls: dict[str, str], moto_url: str) -> None:
    claims = ClaimCheck([open_place(urls["s3-moto"])], most=1000, expires=60.0)
    body = '{"task": "t", "args": ["é"]}'.encode()
    client = boto3.client("s3", endpoint_url=moto_url)
    client.put_object(Bucket=BUCKET, Key="pre/fix/messages/2026/11/mine.json", Body=body)

    ref = PayloadRef(
        f"s3://{BUCKET}/pre/fix/messages/2026/11/mine.json", len(body), hashlib.sha256(body).hexdigest()
    )
    assert claims.load(ref) == body.decode()
    mine = claims.store("text")
    key = mine.uri.removeprefix(f"s3://{BUCKET}/")
    assert client.get_object(Bucket=BUCKET, Key=key)["Body"].read() == b"text"
    claims.close()


def test_no_more_than_the_announced_length_is_fetched(urls: dict[str, str], moto_url: str) -> None:
    """A small size cannot be used to have a worker load a huge object."""
    client = boto3.client("s3", endpoint_url=moto_url)
    client.put_object(Bucket=BUCKET, Key="pre/fix/messages/huge", Body=b"x" * 5_000_000)
    place = open_place(urls["s3-moto"])
    assert len(place.get("huge", 11) or b"") == 11
    place.close()


def test_a_bucket_that_is_not_there_is_an_outage_and_not_a_missing_text(moto_url: str) -> None:
    claims = ClaimCheck(
        [open_place(f"s3://no-such-bucket-here?endpoint_url={moto_url}")], most=10, expires=1.0
    )
    ref = PayloadRef(claims.url + "0" * 32, 1, "0" * 64)
    for verb in (claims.check, lambda: claims.load(ref), lambda: claims.store("x")):
        with pytest.raises(StoreNotFound):
            verb()
    claims.close()


def test_a_folder_that_cannot_be_read_is_an_outage_and_not_a_missing_text(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("a file where the folder should be")
    claims = ClaimCheck([open_place(f"file:///{tmp_path}/kept")], most=10, expires=1.0)
    with pytest.raises(OperationalError):
        claims.load(PayloadRef(claims.url + "0" * 32, 1, "0" * 64))
