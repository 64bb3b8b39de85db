"""Where the contest takes place: the local server, its control, and contestants' processes."""

from __future__ import annotations

import http.client
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.field import process
from benchmarks.field.contestants.roster import Contestant

ROOT = Path(__file__).resolve().parent.parent.parent
TABLE = "field"
#: Seconds after which a contestant that makes no progress is given up.
LIMIT = 60.0


class Stuck(Exception):
    """A contestant did not do its work in time."""


class Publisher:
    """A contestant's sending process."""

    def __init__(self, running: subprocess.Popen[str], name: str) -> None:
        self._running = running
        self._name = name
        self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._running.stdout is not None
        ready, _, _ = select.select([self._running.stdout], [], [], LIMIT)
        line = self._running.stdout.readline() if ready else ""
        if not line:
            what = "ended" if ready else f"did not answer in {LIMIT:g} s"
            raise Stuck(f"the sending process of {self._name} {what}")
        found: dict[str, Any] = json.loads(line)
        return found

    def do(self, order: str, **arguments: Any) -> dict[str, Any]:
        assert self._running.stdin is not None
        self._running.stdin.write(json.dumps({"do": order, **arguments}) + "\n")
        self._running.stdin.flush()
        return self._answer()


class Ground:
    """The server's control and a folder. ``core``: the one that contestants run on; None: all."""

    def __init__(
        self, port: int, folder: Path, concurrency: int, slow_concurrency: int, core: int | None = None
    ) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.folder = folder
        self.concurrency = concurrency
        self.slow_concurrency = slow_concurrency
        self.core = core
        self._line = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self._queues = 0

    def ask(self, path: str, given: dict[str, Any] | None = None, target: str = "") -> dict[str, Any]:
        headers = {"X-Amz-Target": target} if target else {}
        self._line.request("POST", path, json.dumps(given or {}), headers)
        answer = self._line.getresponse()
        found: dict[str, Any] = json.loads(answer.read())
        if answer.status != 200:
            raise RuntimeError(f"{path} {target}: {found}")
        return found

    def forget(self) -> None:
        """Drop the connection; the next call opens another."""
        self._line.close()

    def new_queue(self, contestant: Contestant) -> str:
        """A queue nobody knows yet."""
        self._queues += 1
        name = f"{contestant.key}-{self._queues}"
        attributes = {"VisibilityTimeout": "120"}
        self.ask("/", {"QueueName": name, "Attributes": attributes}, "AmazonSQS.CreateQueue")
        return name

    def deleted(self, queue: str) -> int:
        found: int = self.ask("/_queue", {"name": queue})["deleted"]
        return found

    def allow(self, queue: str, messages: int | None) -> None:
        """Let a queue give away so many messages more and then look empty; None: let it go."""
        self.ask("/_set", {"allowance": {queue: messages}})

    def set_latency(self, seconds: float) -> None:
        self.ask("/_set", {"latency": seconds})

    def counts(self, contestant: Contestant, role: str) -> dict[str, float]:
        """Calls and units that a contestant's processes of this role have made."""
        found: dict[str, float] = self.ask("/_state").get(f"{contestant.key}-{role}", {})
        return found

    def until_deleted(self, contestant: Contestant, queue: str, count: int, limit: float = LIMIT) -> int:
        """Wait until so many messages of the queue are done. Raises Stuck."""
        deadline = time.monotonic() + limit
        while (done := self.deleted(queue)) < count:
            if time.monotonic() > deadline:
                raise Stuck(f"{contestant.title} has done {done} of {count} after {limit:g} s")
            time.sleep(0.004)
        return done

    def stamps(self, queue: str) -> Path:
        return self.folder / f"stamps-{queue}"

    def environment(
        self, contestant: Contestant, role: str, queue: str = "", results: bool = False, threads: int = 1
    ) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
        return {
            **kept,
            "PYTHONPATH": str(ROOT),
            "AWS_ACCESS_KEY_ID": f"{contestant.key}-{role}",
            "AWS_SECRET_ACCESS_KEY": "bench",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "NO_PROXY": "127.0.0.1",
            "FIELD_URL": self.url,
            "FIELD_QUEUE": queue,
            "FIELD_TABLE": TABLE,
            "FIELD_CONCURRENCY": str(threads),
            "FIELD_RESULTS": "1" if results else "0",
            "FIELD_STAMPS": str(self.stamps(queue)),
        }

    def log(self, contestant: Contestant) -> Path:
        return self.folder / f"{contestant.key}.log"

    @contextmanager
    def worker(
        self, contestant: Contestant, queue: str, results: bool = False, concurrency: int | None = None
    ) -> Iterator[int]:
        """The contestant's worker on a queue; its process id."""
        threads = concurrency or self.concurrency
        command = contestant.command(queue, threads)
        env = self.environment(contestant, "worker", queue, results, threads)
        with process.started(command, env, self.log(contestant), self.core) as running:
            yield running.pid

    @contextmanager
    def publisher(self, contestant: Contestant, queue: str, results: bool = False) -> Iterator[Publisher]:
        """The contestant's sending process, ready."""
        command = [sys.executable, "-m", "benchmarks.field.publisher", contestant.module]
        env = self.environment(contestant, "publisher", queue, results)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with process.started(command, env, self.log(contestant), self.core, **pipes) as running:
            yield Publisher(running, contestant.title)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _first_core() -> int:
    """The core for contestants; we, and what we start, stay away from it."""
    first, *others = sorted(os.sched_getaffinity(0))
    if not others:
        raise Stuck("with --one-core the server needs another core than the contestants; there is only one")
    os.sched_setaffinity(0, others)
    return first


@contextmanager
def prepared(
    folder: Path, concurrency: int, slow_concurrency: int, one_core: bool = False
) -> Iterator[Ground]:
    """A running server with an empty table; with ``one_core`` on another core than the contestants, which share
    one. Raises Stuck when it does not answer, or there is no second core."""
    core = _first_core() if one_core else None
    port = _free_port()
    command = [sys.executable, "-m", "benchmarks.field.server", str(port)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with process.started(command, env, folder / "server.log"):
        ground = Ground(port, folder, concurrency, slow_concurrency, core)
        deadline = time.monotonic() + 20
        while True:
            try:
                ground.ask("/_state")
                break
            except (OSError, http.client.HTTPException):
                ground.forget()
                if time.monotonic() > deadline:
                    raise Stuck(f"the local server does not answer; see {folder / 'server.log'}") from None
                time.sleep(0.05)
        schema = [
            {"AttributeName": name, "KeyType": kind} for name, kind in (("pk", "HASH"), ("sk", "RANGE"))
        ]
        ground.ask("/", {"TableName": TABLE, "KeySchema": schema}, "DynamoDB_20120810.CreateTable")
        yield ground
