"""Remote control from the command line, against real worker processes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner
from worker_processes import Scene, WorkerProcess, eventually, sqlite_scene

from cloudq import CloudQ
from cloudq.backends.open import open_backend
from cloudq.brokers.base import QueueSpec
from cloudq.brokers.open import open_broker
from cloudq.cli.main import cli
from cloudq.cli.top import looking_at, task_rows, worker_rows
from cloudq.errors import TaskRevokedError

WAIT = 45.0


@pytest.fixture(scope="module", params=["sqlite", pytest.param("aws", marks=pytest.mark.slow)])
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("control")
    if request.param == "sqlite":
        with sqlite_scene(folder, visibility_timeout=30) as made:
            yield made
        return
    url = request.getfixturevalue("ministack_url")
    made = Scene(folder, f"sqs://?endpoint_url={url}", f"dynamodb://control?endpoint_url={url}", "steered")
    queue, table = open_broker(made.broker), open_backend(made.backend)
    for name in (made.queue, "more", "line.fifo"):
        queue.create_queue(QueueSpec(name, 30.0))  # type: ignore[attr-defined]
    table.create_table()  # type: ignore[attr-defined]
    queue.close()
    table.close()
    yield made


@pytest.fixture(scope="module")
def worker(scene: Scene) -> Iterator[WorkerProcess]:
    with scene.worker("-P", "prefork", "-c", "1", "-n", "w1", CLOUDQ_CONTROL_INTERVAL="0.2") as worker:
        yield worker


@pytest.fixture(scope="module")
def app(scene: Scene) -> Iterator[CloudQ]:
    with CloudQ("client", broker=scene.broker, backend=scene.backend, task_default_queue=scene.queue) as made:
        yield made


def cloudq(scene: Scene, *words: str, backend: str | None = None) -> Any:
    """A command, in this process: dozens of interpreters would take their time."""
    return CliRunner().invoke(cli, [*words, "--result-backend", backend or scene.backend])


def ask(scene: Scene, *words: str) -> Any:
    done = cloudq(scene, *words, "--json", "--timeout", "20")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_every_question_is_answered(scene: Scene, worker: WorkerProcess, app: CloudQ) -> None:
    running = app.send_task("worker_app.nap", (60.0,))
    eventually("it runs", lambda: scene.runs("start", running.id))
    waiting = app.send_task("worker_app.add", (1, 2))
    eventually(
        "it waits in the worker",
        lambda: [each["id"] for each in ask(scene, "inspect", "reserved")["w1"]] == [waiting.id],
    )

    [active] = ask(scene, "inspect", "active")["w1"]
    assert (active["id"], active["name"], active["args"]) == (running.id, "worker_app.nap", "[60.0]")
    assert active["worker_pid"] in worker.children()
    assert ask(scene, "inspect", "ping") == {"w1": {"ok": "pong"}}
    assert ask(scene, "inspect", "query-task", running.id)["w1"][running.id][0] == "active"

    told = scene.cloudq("inspect", "active", "-t", "20").stdout  # a process of its own, once
    assert "worker_app.nap" in told
    listed = cloudq(scene, "status").stdout
    assert "w1" in listed
    assert "online" in listed
    app.control.revoke(running.id, terminate=True)
    assert waiting.get(timeout=WAIT) == 3
    assert ask(scene, "inspect", "revoked")["w1"] == [running.id]

    def of(*question: str) -> Any:
        return ask(scene, "inspect", *question)["w1"]

    stats = of("stats")
    assert (stats["pid"], stats["pool"], stats["concurrency"]) == (worker.pid, "prefork", 1)
    assert stats["queues"][scene.queue]["received"] >= 2
    assert stats["rusage"]["maxrss"] > 0
    assert {"worker_app.add", "worker_app.nap"} <= set(of("registered"))
    assert "worker_app.paced [rate_limit='4/s']" in of("registered", "rate_limit")
    assert (of("conf")["control_interval"], of("conf")["task_default_queue"]) == (0.2, scene.queue)
    assert [each["name"] for each in of("active-queues")] == [scene.queue]
    assert of("active_queues") == of("active-queues")
    assert of("scheduled") == []


def test_revoke_stops_what_waits_and_leaves_what_runs_unless_told_to(
    scene: Scene, worker: WorkerProcess, app: CloudQ
) -> None:
    """Pending, running without and with terminate, each by id and by stamped headers."""
    running = app.send_task("worker_app.nap", (3.0,))
    eventually("it runs", lambda: scene.runs("start", running.id))
    waiting = app.send_task("worker_app.work", (1,))
    stamped = app.signature("worker_app.work", (2,))
    stamped.stamp(tenant="evil")
    pending = stamped.apply_async()
    app.control.revoke([running.id, waiting.id])
    app.control.revoke_by_stamped_headers({"tenant": ["evil"]})
    eventually("it went on", lambda: running.state == "SUCCESS")
    assert running.get(timeout=WAIT) == "rested"
    for each in (waiting, pending):
        with pytest.raises(TaskRevokedError, match="revoked"):
            each.get(timeout=WAIT)

    stamped = app.signature("worker_app.nap", (60.0,))
    stamped.stamp(tenant="worse")
    doomed = stamped.apply_async()
    eventually("it runs too", lambda: scene.runs("start", doomed.id))
    app.control.revoke_by_stamped_headers({"tenant": ["worse"]}, terminate=True)
    with pytest.raises(TaskRevokedError, match="terminated"):
        doomed.get(timeout=WAIT)
    assert app.send_task("worker_app.add", (1, 1)).get(timeout=WAIT) == 2
    assert not scene.runs("end", doomed.id)
    assert [scene.runs("start", each.id) for each in (waiting, pending)] == [[], []]


def test_every_order_is_carried_out(scene: Scene, worker: WorkerProcess, app: CloudQ) -> None:
    def order(*words: str) -> str:
        [answer] = ask(scene, "control", *words)
        return str(answer["w1"]["ok"])

    assert order("pool-grow", "1") == "2 at once"
    eventually("two children", lambda: len(worker.children()) >= 2)
    assert order("pool-shrink") == "1 at once"

    before = set(worker.children())
    assert "replaced" in order("pool-restart")
    eventually("another child", lambda: set(worker.children()) and not set(worker.children()) & before)
    eventually("it said goodbye", lambda: before & {r.pid for r in scene.runs("worker_process_shutdown")})
    assert before <= {run.pid for run in scene.runs("worker_process_init")}

    # a time limit that reaches the children
    assert order("time-limit", "worker_app.nap", "0.5", "30").endswith("soft 0.5 s, hard 30 s")
    result = app.send_task("worker_app.nap", (20.0,))
    result.get(timeout=WAIT, propagate=False)
    assert type(result.result).__name__ == "SoftTimeLimitExceeded"
    assert order("time-limit", "worker_app.work", "0", "1").endswith("soft none, hard 1 s")
    result = app.send_task("worker_app.work", (1, 30.0))
    result.get(timeout=WAIT, propagate=False)
    assert type(result.result).__name__ == "TimeLimitExceeded"
    assert order("time-limit", "worker_app.work", "0", "0").endswith("soft none, hard none")

    # a rate limit that reaches them: of two tasks that must keep their order the second is held
    assert order("rate-limit", "worker_app.work", "1/h") == "rate limit of worker_app.work is 1/h"
    assert order("add-consumer", "line.fifo") == "consuming line.fifo"
    first, second = (
        app.send_task("worker_app.work", (n,), queue="line.fifo", group_id="g") for n in range(2)
    )
    assert first.get(timeout=WAIT) == 0
    eventually(
        "the second one is held",
        lambda: [each["request"]["id"] for each in ask(scene, "inspect", "scheduled")["w1"]] == [second.id],
    )
    assert order("cancel-consumer", "line.fifo") == "no longer consuming line.fifo"
    assert order("rate-limit", "worker_app.work", "0") == "rate limit of worker_app.work is off"

    assert order("add-consumer", "more") == "consuming more"
    assert app.send_task("worker_app.add", (2, 3), queue="more").get(timeout=WAIT) == 5
    assert order("cancel-consumer", "more") == "no longer consuming more"

    assert "is paused" in cloudq(scene, "control", "pause", scene.queue).stdout
    eventually("it is paused", lambda: ask(scene, "inspect", "active-queues")["w1"][0]["paused"])
    held = app.send_task("worker_app.add", (1, 1))
    time.sleep(1.0)
    assert not held.ready()
    assert "is resumed" in cloudq(scene, "control", "resume", scene.queue).stdout
    assert held.get(timeout=WAIT) == 2


def test_a_wrong_order_is_the_workers_to_refuse(scene: Scene, worker: WorkerProcess) -> None:
    done = cloudq(scene, "control", "rate-limit", "worker_app.nosuch", "1/s", "-t", "20")
    assert done.exit_code == 1
    assert "knows no task" in done.stdout
    done = cloudq(scene, "control", "cancel-consumer", "nosuch", "-t", "20")
    assert (done.exit_code, "is not consumed here" in done.stdout) == (1, True)
    assert cloudq(scene, "control", "pool-grow", "0").exit_code == 2
    assert cloudq(scene, "control", "time-limit", "t", "5", "2").exit_code == 2


def test_nobody_answers(scene: Scene, worker: WorkerProcess, tmp_path: Any) -> None:
    done = cloudq(scene, "inspect", "ping", "-d", "w9")
    assert (done.exit_code, "no live worker is called w9; there are w1" in done.stderr) == (69, True)
    slow = cloudq(scene, "inspect", "ping", "-t", "0")
    assert (slow.exit_code, "none answered in time" in slow.stderr) == (69, True)
    empty = cloudq(scene, "inspect", "ping", backend=f"sqlite:///{tmp_path / 'empty.db'}")
    assert empty.exit_code == 69
    assert "no worker is alive" in empty.stderr
    assert cloudq(scene, "status", backend="memory://").exit_code == 69


def test_shutdown_stops_warmly_and_a_killed_worker_is_called_lost(
    scene: Scene, worker: WorkerProcess, app: CloudQ
) -> None:
    with scene.worker(
        "-P", "threads", "-n", "doomed", "-Q", "more",
        CLOUDQ_CONTROL_INTERVAL="0.2", CLOUDQ_WORKER_HEARTBEAT_INTERVAL="0.4",
    ) as doomed:  # fmt: skip
        task = app.send_task("worker_app.nap", (60.0,), queue="more")
        look = looking_at(app)
        eventually("its sign of life names it", lambda: task.id in [each.id for each in look().running])
        assert not any(each.lost for each in look().running)
        doomed.kill()
    eventually("it is lost", lambda: "LOST" in cloudq(scene, "status").stdout)
    assert f"LOST with doomed: worker_app.nap[{task.id}]" in cloudq(scene, "status").stdout
    assert (task.id, "worker_app.nap", "LOST") in [row[:3] for row in task_rows(look())]
    assert ("doomed", "LOST") in [row[:2] for row in worker_rows(look())]
    asked = cloudq(scene, "inspect", "active", "-d", "doomed")
    assert (asked.exit_code, "worker doomed is lost" in asked.stderr) == (69, True)
    assert f"it ran worker_app.nap[{task.id}]" in asked.stderr
    assert [each["w1"] for each in ask(scene, "control", "shutdown", "-d", "w1")] == [{"ok": "stopping"}]
    assert worker.wait() == 0
    assert "w1" not in [each.hostname for each in app.control.workers()]
