"""Results to DynamoDB one by one, or together: what a conditional write costs the worker.

``DynamoBackend.write(..., when=ABSENT)`` (one PutItem each) beside a group committer made of BatchExecuteStatement
(25 PartiQL inserts a call; an insert fails when the key is there, which is the same condition but for records that
have expired), from one thread and from 16 that each wait for their own outcome, on the field benchmark's
server. CPU is this process's own, the least of three rounds in turns.

    .venv/bin/python benchmarks/group_commit.py [records]
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ |= {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"}

import servers  # noqa: E402

from cloudq.aws.lean import LeanPort  # noqa: E402
from cloudq.aws.port import Call  # noqa: E402
from cloudq.backends.base import ABSENT  # noqa: E402
from cloudq.backends.dynamodb import DynamoBackend, to_item_key  # noqa: E402

TABLE = "field"
VALUE = b"x" * 300
MOST = 25
THREADS = 16
INSERT = f"""INSERT INTO "{TABLE}" VALUE {{'pk': ?, 'sk': ?, 'value': ?, 'ver': ?}}"""


@contextmanager
def server() -> Iterator[str]:
    port = servers.free_port()
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.field.server", str(port)], cwd=ROOT)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen(f"{url}/_stats", timeout=5).close()
                break
            except OSError:
                time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait()


def statement(key: str) -> dict[str, Any]:
    item = to_item_key(key)
    values = [item["pk"], item["sk"], {"B": VALUE}, {"S": os.urandom(8).hex()}]
    return {"Statement": INSERT, "Parameters": values, "ReturnValuesOnConditionCheckFailure": "ALL_OLD"}


class Together:
    """A group committer: what comes while a call is under way goes with the next; each waits for its own answer."""

    def __init__(self, port: LeanPort) -> None:
        self._port = port
        self._changed = threading.Condition(threading.Lock())
        self._waiting: list[tuple[dict[str, Any], list[Any]]] = []
        self._busy = False
        self.calls = 0

    def write(self, key: str) -> None:
        answer: list[Any] = []
        with self._changed:
            self._waiting.append((statement(key), answer))
            while self._busy and not answer:
                self._changed.wait()
            if answer:
                self._check(answer)
                return
            self._busy = True
        while not answer:
            with self._changed:
                batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
            self.send(batch)
        with self._changed:
            self._busy = False
            self._changed.notify_all()
        self._check(answer)

    def send(self, batch: list[tuple[dict[str, Any], list[Any]]]) -> None:
        params = {"Statements": [each for each, _ in batch]}
        found = self._port.call(Call("dynamodb", "BatchExecuteStatement", params))["Responses"]
        self.calls += 1
        for (_, answer), each in zip(batch, found, strict=True):
            answer.append(each)

    def _check(self, answer: list[Any]) -> None:
        if "Error" in answer[0]:
            raise RuntimeError(f"not written: {answer[0]}")


def threads(count: int, each: Callable[[str], Any], keys: list[str]) -> None:
    def run(part: list[str]) -> None:
        for key in part:
            each(key)

    running = [threading.Thread(target=run, args=(keys[n::count],)) for n in range(count)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def main(records: int) -> None:
    rounds: dict[str, list[tuple[float, float, float]]] = {}
    with server() as url:
        port = LeanPort("us-east-1", url)
        keys = [{"AttributeName": name, "KeyType": kind} for name, kind in (("pk", "HASH"), ("sk", "RANGE"))]
        kinds = [{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")]
        port.call(
            Call(
                "dynamodb",
                "CreateTable",
                {
                    "TableName": TABLE,
                    "KeySchema": keys,
                    "AttributeDefinitions": kinds,
                    "BillingMode": "PAY_PER_REQUEST",
                },
            )
        )
        backend, number = DynamoBackend(port, TABLE), 0
        for _ in range(3):
            together = Together(port)

            def single(key: str) -> None:
                backend.write(key, VALUE, ABSENT)

            def full(names: list[str], group: Together = together) -> None:
                for start in range(0, len(names), MOST):
                    group.send([(statement(key), []) for key in names[start : start + MOST]])

            ways: dict[str, Callable[[list[str]], None]] = {
                "PutItem, one thread": lambda names: threads(1, single, names),
                f"PutItem, {THREADS} threads": lambda names: threads(THREADS, single, names),
                f"BatchExecuteStatement of {MOST}, one thread": full,
                f"group commit, {THREADS} threads": lambda names, group=together: threads(  # type: ignore[misc]
                    THREADS, group.write, names
                ),
            }
            for name, way in ways.items():
                number += 1
                names = [f"task/{number}-{n}" for n in range(records)]
                cpu, began, calls = time.process_time(), time.monotonic(), together.calls
                way(names)
                spent, took = time.process_time() - cpu, time.monotonic() - began
                made = (together.calls - calls) or records
                rounds.setdefault(name, []).append((spent, made, took))
    least = {name: min(found) for name, found in rounds.items()}
    base = least["PutItem, one thread"][0]
    print("| | CPU, us/record | against PutItem | calls per record | records/s |")
    print("|---|---|---|---|---|")
    for name, (spent, made, took) in least.items():
        print(
            f"| {name} | {spent / records * 1e6:.0f} | {spent / base:.2f} | {made / records:.2f} | {records / took:,.0f} |"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4000)
