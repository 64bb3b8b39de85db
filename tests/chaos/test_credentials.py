"""Credentials that expire while tasks run: the worker gets new ones, or waits until there are some
(issue 3, proof d). Who may call is decided by the fault proxy, by access key."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import servers
from fault_proxy import Proxy
from worker_processes import Scene, WorkerProcess, eventually

from cloudq import CloudQ
from cloudq.backends.open import open_backend
from cloudq.brokers.base import QueueSpec
from cloudq.brokers.open import open_broker

pytestmark = pytest.mark.slow

#: What a credential process says: the key that the file names, good for an hour. It fails when there is none.
GIVE = """
import datetime, json, pathlib, sys
folder = pathlib.Path(__file__).parent
with (folder / "asked").open("a") as asked:
    asked.write("x")
if not (folder / "key").exists():
    sys.exit("the sign-in service is away")
later = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1)
print(json.dumps({"Version": 1, "AccessKeyId": (folder / "key").read_text(), "SecretAccessKey": "s",
    "SessionToken": "t", "Expiration": later.isoformat()}))
"""


class SignIn:
    """Where a worker's credentials come from, and which of them AWS takes."""

    def __init__(self, folder: Path, proxy: Proxy) -> None:
        self._folder = folder
        self._proxy = proxy
        (folder / "give.py").write_text(GIVE)
        (folder / "config").write_text(f"[default]\ncredential_process = {sys.executable} {folder}/give.py\n")
        self.env = {
            "AWS_CONFIG_FILE": str(folder / "config"),
            "AWS_ACCESS_KEY_ID": "",
            "AWS_SECRET_ACCESS_KEY": "",
        }

    def give(self, key: str | None) -> None:
        """From now on this is who signs in; None: nobody can."""
        target = self._folder / "key"
        if key is None:
            target.unlink()
            return
        aside = self._folder / "key.new"
        aside.write_text(key)
        os.replace(aside, target)

    def expire(self, key: str) -> None:
        """AWS takes it no more."""
        error = {"code": "ExpiredTokenException", "message": "The security token is expired", "status": 400}
        self._proxy.rules(
            [{"service": "*", "headers": {"authorization": f"Credential={key}/"}, "error": error}]
        )

    @property
    def refused(self) -> int:
        return self._proxy.requests()["faulted"]

    @property
    def asked(self) -> int:
        return len((self._folder / "asked").read_text())


@pytest.fixture
def stage(tmp_path: Path, ministack_url: str, unique: str) -> Iterator[tuple[Scene, SignIn, CloudQ]]:
    direct = (f"sqs://?endpoint_url={ministack_url}", f"dynamodb://{unique}?endpoint_url={ministack_url}")
    queue, table = open_broker(direct[0]), open_backend(direct[1])
    queue.create_queue(QueueSpec(unique, 30.0, max_receive_count=5))  # type: ignore[attr-defined]
    table.create_table()  # type: ignore[attr-defined]
    with (
        servers.microburst(tmp_path, ministack_url) as url,
        CloudQ("watcher", broker=direct[0], backend=direct[1], task_default_queue=unique) as watcher,
    ):
        scene = Scene(
            tmp_path, f"sqs://?endpoint_url={url}", f"dynamodb://{unique}?endpoint_url={url}", unique
        )
        signin = SignIn(tmp_path, Proxy(url))
        signin.give("AKIAOLD")
        yield scene, signin, watcher
    table.delete_table()  # type: ignore[attr-defined]
    table.close()
    queue.close()


def settled(scene: Scene, app: CloudQ, results: list[Any], worker: WorkerProcess) -> None:
    """Every task ended, once, and nothing is left."""
    assert [each.get(timeout=40.0) for each in results] == list(range(len(results)))
    eventually("all deleted", lambda: app.broker.depth(scene.queue).total == 0)
    assert worker.stop() == 0, worker.text[-3000:]
    assert Counter(run.task_id for run in scene.runs("end")) == Counter({each.id: 1 for each in results})


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_expired_credentials_are_renewed_while_tasks_run(
    stage: tuple[Scene, SignIn, CloudQ], pool: str
) -> None:
    scene, signin, watcher = stage
    with scene.worker("-P", pool, "-c", "4", **signin.env) as worker:
        results = [watcher.send_task("worker_app.work", (n, 0.3)) for n in range(40)]
        eventually("tasks run", lambda: len(scene.runs("end")) > 4)
        signin.give("AKIANEW")
        signin.expire("AKIAOLD")
        settled(scene, watcher, results, worker)
        assert signin.refused > 0
    # each process of the worker signed in twice, and not with every call
    assert signin.asked <= 2 * (1 if pool == "threads" else 5) + 2


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_worker_waits_until_it_can_sign_in_again(stage: tuple[Scene, SignIn, CloudQ], pool: str) -> None:
    scene, signin, watcher = stage
    with scene.worker("-P", pool, "-c", "4", **signin.env) as worker:
        results = [watcher.send_task("worker_app.work", (n, 0.2)) for n in range(40)]
        eventually("tasks run", lambda: len(scene.runs("end")) > 4)
        signin.give(None)
        signin.expire("AKIAOLD")
        eventually("it says so", lambda: "the sign-in service is away" in worker.text)
        eventually("for good", lambda: worker.text.count("the AWS credentials could not be loaded") > 3)
        assert watcher.store is not None
        assert len(watcher.store.read_many([each.id for each in results])) < len(results)
        signin.give("AKIANEW")
        settled(scene, watcher, results, worker)
    text = worker.text
    assert "check the credentials" in text
    assert "Traceback" not in text


def test_without_any_credentials_a_worker_does_not_start_and_says_why(
    stage: tuple[Scene, SignIn, CloudQ],
) -> None:
    scene, signin, _ = stage
    signin.give(None)
    worker = scene.worker("-P", "threads", "-c", "1", ready=False, **signin.env)
    assert worker.wait() != 0
    assert "the sign-in service is away" in worker.text
    assert "Traceback" not in worker.text
