"""Each role's generated policy, held against the calls that the role really makes (issue 10).

A full run per role on a real server: every call is noted at the door to AWS, and compared both ways. Nothing
is missing, and nothing is granted that no call needs. Policies for AWS's own use of keys (encrypted queues,
tables and buckets) are beside this: no call shows it.
"""

from __future__ import annotations

import html
import json
import re
import shlex
import sys
import threading
import time
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import boto3
import pytest
from dashboard_browser import Browser
from dashboard_browser import beat as beat_of
from esm import Context, Mapping
from metadata import metadata
from recorded import ACCOUNT, REGION, Asked, Policy, Recorder, recording
from typer.testing import CliRunner
from worker_processes import eventually

from cloudq import CloudQ, Reject, chain, chord, group
from cloudq.aws_lambda.api import make_api
from cloudq.aws_lambda.handler import make_handler
from cloudq.aws_lambda.redrive import make_redrive
from cloudq.backends.open import open_backend
from cloudq.beat.beat import Beat
from cloudq.beat.book import Book
from cloudq.brokers.base import QueueSpec, dead_letter_name
from cloudq.cli.main import cli
from cloudq.cli.schedule import _entries
from cloudq.dashboard.actions import ACTIONS
from cloudq.dashboard.pages.letters import letters_of
from cloudq.deploy.iam import ROLES, policy
from cloudq.deploy.rights import Place, rights_of
from cloudq.deploy.sync import apply, make_plan, place_of
from cloudq.errors import OperationalError
from cloudq.monitoring.overview import overview
from cloudq.schedules.entry import Entry
from cloudq.schedules.reading import as_schedule
from cloudq.testing.workers import running_worker
from cloudq.worker.companions import Companions
from cloudq.worker.worker import Worker

DAY = 86_400.0
LARGE = 300_000  # goes to the bucket: in a result, and (below) in a message
SENDER = f"arn:aws:iam::{ACCOUNT}:role/cloudq-scheduler"


@dataclass
class Shop:
    """An app on AWS with everything turned on; ``app()`` gives each role one of its own."""

    url: str
    name: str
    #: What the publisher has sent, for those who ask after it.
    sent: dict[str, Any] = field(default_factory=dict)
    #: The app's own KMS key.
    key: str = ""

    @property
    def fifo(self) -> str:
        return f"{self.name}.fifo"

    @property
    def dead(self) -> str:
        return f"arn:aws:sqs:{REGION}:{ACCOUNT}:{dead_letter_name(self.name)}"

    def app(self, **settings: Any) -> CloudQ:
        at = f"region={REGION}&endpoint_url={self.url}"
        app = CloudQ(
            self.name,
            broker=f"sqs://?{at}&wait_time_seconds=1",
            backend=f"dynamodb://{self.name}?{at}+s3://{self.name}/cloudq?{at}",
            broker_large_messages=f"s3://{self.name}/cloudq?{at}",
            broker_large_messages_over=100_000,
            task_default_queue=self.name,
            delay_tier="scheduler",
            scheduler_role_arn=SENDER,
            scheduler_dead_letter_arn=self.dead,
            security_encryption_keys={"k": f"kms:{self.key}"},
            **settings,
        )
        declare(app, self.fifo)
        return app

    def policy(self, role: str) -> Policy:
        with self.app(**chosen(self, role)) as app:
            rights, elsewhere = rights_of(app, [self.name, self.fifo], Place(ACCOUNT, REGION), role)
        assert elsewhere == []
        return Policy(policy(role, rights))

    def buried(self, queue: str) -> int:
        """Dead letters, asked past the recorder."""
        sqs = boto3.client("sqs", endpoint_url=self.url, region_name=REGION)
        where = sqs.get_queue_url(QueueName=dead_letter_name(queue))["QueueUrl"]
        found = sqs.get_queue_attributes(QueueUrl=where, AttributeNames=["ApproximateNumberOfMessages"])
        return int(found["Attributes"]["ApproximateNumberOfMessages"])

    def create(self) -> None:
        boto3.client("s3", endpoint_url=self.url, region_name=REGION).create_bucket(Bucket=self.name)
        kms = boto3.client("kms", endpoint_url=self.url, region_name=REGION)
        self.key = kms.create_key()["KeyMetadata"]["Arn"]
        with self.app() as app:
            for queue in (self.name, self.fifo):
                app.broker.create_queue(QueueSpec(queue, visibility_timeout=30.0))  # type: ignore[attr-defined]
            open_backend(app.backend.url.partition("+")[0]).create_table()  # type: ignore


def declare(app: CloudQ, fifo: str) -> None:
    """The shop's tasks: each needs something of AWS that the others do not."""

    @app.task(name="add", unique="until_start")
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="total", rate_limit="100/s", rate_limit_scope="global", max_concurrency=5)
    def total(found: list[Any]) -> int:
        return len(found)

    @app.task(name="large", bind=True)
    def large(self: Any, size: int) -> str:
        self.update_state(state="PROGRESS", meta="y" * size)  # replaced, and so removed from the bucket
        return "x" * size

    @app.task(name="flaky", bind=True, max_retries=2)
    def flaky(self: Any, countdown: float) -> str:
        if self.request.retries == 0:
            raise self.retry(countdown=countdown)
        return "done"

    @app.task(name="slow")
    def slow(seconds: float) -> None:
        time.sleep(seconds)

    @app.task(name="step", queue=fifo, bind=True, max_retries=2)
    def step(self: Any, number: int) -> int:
        if self.request.retries == 0:
            raise self.retry(countdown=0)
        return number

    @app.task(name="weigh")
    def weigh(text: str) -> int:
        return len(text)

    @app.task(name="refuse", bind=True)
    def refuse(self: Any) -> str:
        if not refused:
            refused.append(self.request.id)
            raise Reject("not now", requeue=True)
        return "done"

    refused: list[str] = []

    @app.task(name="fail")
    def fail(given: Any = None) -> None:
        raise KeyError("no such order")

    @app.task(name="send", bind=True)
    def send(self: Any) -> None:
        """Tasks publish, too."""
        weigh.delay("x" * LARGE)
        step.apply_async((2,), group_id="g")
        later = weigh.apply_async(("x",), countdown=DAY)
        with pytest.raises(ValueError, match="scheduled already"):
            weigh.apply_async(("x",), countdown=2 * DAY, task_id=later.id)
        later.revoke()


def chosen(shop: Shop, role: str) -> dict[str, Any]:
    """What the role's app has set besides."""
    if role == "sync":
        return {"scheduler_group": shop.name}
    if role == "worker":
        return {
            "monitoring": "history",
            "worker_visibility_timeout": 6.0,
            "worker_lifecycle_hook": f"{shop.name}:drain",
        }
    return {}


# --- what each role does ----------------------------------------------------------------------------------


def publish(shop: Shop, app: CloudQ, recorder: Recorder) -> None:
    tasks = app.tasks
    add = tasks["add"]
    shop.sent = {
        "one": add.delay(1, 2),
        "many": group(add.s(n, n) for n in range(12)).apply_async(),
        "chord": chord([tasks["large"].s(LARGE) for _ in range(2)], tasks["total"].s()).apply_async(),
        "fifo": tasks["step"].apply_async((1,), group_id="g"),
        "weigh": tasks["weigh"].delay("x" * LARGE),
        "soon": add.apply_async((100, 1), countdown=1),
        "again": tasks["flaky"].delay(0.5),
        "send": tasks["send"].delay(),
        "refuse": tasks["refuse"].delay(),
        "slow": tasks["slow"].delay(4.0),
        "failed": chain(add.s(3, 4), tasks["fail"].s()).apply_async(),
        "failed too": chain(add.s(5, 6), tasks["fail"].s()).apply_async(),
    }
    tasks["flaky"].delay(DAY)
    tasks["step"].apply_async((3,), group_id="g", countdown=DAY)
    for _ in range(6):
        app.send_task("nobody.knows", ("x" * LARGE,))
    for group_id in ("g2", "g3"):
        app.send_task("nobody.knows", queue=shop.fifo, group_id=group_id)
    tomorrow = tasks["slow"].apply_async((1,), countdown=DAY)
    with pytest.raises(ValueError, match="scheduled already"):
        tasks["slow"].apply_async((1,), countdown=2 * DAY, task_id=tomorrow.id)
    tomorrow.revoke()
    with recorder.refusing("SendMessage"), pytest.raises(OperationalError):
        tasks["weigh"].delay("x" * LARGE)


def look_after(shop: Shop, app: CloudQ, recorder: Recorder) -> None:
    """The publisher again, once the tasks have run."""
    large = app.AsyncResult(shop.sent["chord"].parent.results[0].id)
    assert large.get(timeout=60) == "x" * LARGE
    assert app.AsyncResult(shop.sent["one"].id).get(timeout=60) == 3
    large.forget()
    members = shop.sent["many"]
    members.save()
    app.GroupResult.restore(members.id).delete()
    app.control.pause(shop.fifo)
    app.control.resume(shop.fifo)


def beat(shop: Shop, app: CloudQ, recorder: Recorder) -> None:
    """``cloudq beat`` has a publisher's policy."""
    app.conf.beat_schedule = {"often": {"task": "add", "schedule": 1.0, "args": [7, 7]}}
    running = Beat(app, interval=0.2)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    eventually("the beat leads", lambda: running.leads)
    running.stop()
    thread.join(60)
    assert not thread.is_alive()


def work(shop: Shop, app: CloudQ, recorder: Recorder) -> None:
    with running_worker(app, [shop.name, shop.fifo]):
        waiting = [
            app.AsyncResult(shop.sent[name].id)
            for name in ("again", "chord", "send", "weigh", "fifo", "refuse")
        ]
        waiting += [app.AsyncResult(shop.sent[name].id) for name in ("slow", "failed", "failed too")]
        for each in waiting:
            each.get(timeout=150, propagate=False)
        eventually(
            "what nobody knows is buried", lambda: [*map(shop.buried, (shop.name, shop.fifo))] == [6, 2]
        )
    beat_of(
        app, "steady", app.clock.time(), every=600.0, queues=(shop.name,)
    )  # so that operators have somebody to steer


def be_scaled_in(shop: Shop, app: CloudQ, recorder: Recorder) -> None:
    """A worker whose instance is taken away by its Auto Scaling group, and that still has a task to finish."""
    with metadata() as ec2, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", ec2.url)
        patch.setenv("AWS_ENDPOINT_URL_AUTO_SCALING", ec2.url)
        patch.setattr("cloudq.worker.interruption.HEARTBEAT", 0.05)
        app.conf.worker_watch_interruption = True
        companions = Companions(Worker(app, queues=[shop.name]))
        ec2.values["autoscaling/target-lifecycle-state"] = "Terminated"
        assert not companions.start()
        eventually("the group is kept waiting", lambda: ec2.calls)
        companions.close()
    names = [name for name, _ in ec2.calls]
    assert set(names[:-1]) == {"RecordLifecycleActionHeartbeat"}
    assert names[-1] == "CompleteLifecycleAction"
    assert ec2.calls[-1][1]["AutoScalingGroupName"] == shop.name


def invoke(shop: Shop, app: CloudQ, recorder: Recorder) -> None:
    """Lambda's pollers receive and delete with the function's role, and ask for the queue's attributes."""
    mapping = Mapping(app, make_handler(app), shop.name, shop.fifo)
    end = time.monotonic() + 150
    done = [
        app.AsyncResult(shop.sent[name].id) for name in ("again", "chord", "send", "weigh", "fifo", "refuse")
    ]
    while not all(each.ready() for each in done):
        assert time.monotonic() < end
        if not mapping.once(limit=10):
            time.sleep(0.1)
    for queue in (shop.name, shop.fifo):
        app.broker.describe(queue)


def look(shop: Shop, app: CloudQ, recorder: Recorder, read_only: bool = True) -> None:
    seen = overview(
        broker=app.broker,
        control=app.control,
        history=app.history,
        clock=app.clock,
        queues=[shop.name, shop.fifo],
    )
    assert seen.recent
    for each in seen.recent:
        app.AsyncResult(each.id)._read()
    assert all(each.dead for each in seen.queues), seen.queues
    browser = Browser(app, read_only=read_only)
    for path in ("", f"queues/{shop.name}", "workers", "tasks", f"tasks/{seen.recent[0].id}"):
        assert "may not" not in browser.get(f"/{path}")


def operate(shop: Shop, app: CloudQ, recorder: Recorder) -> None:
    """A dashboard with its actions, then the commands. What needs no policy (``keys``, ``iam``), what makes, empties or
    deletes queues, and what has a role of its own (``worker``, ``beat``, ``schedule sync``) is not an operator's."""
    look(shop, app, recorder, read_only=False)
    act(shop, app)
    command(shop, app)


def act(shop: Shop, app: CloudQ) -> None:
    browser = Browser(app)
    said: dict[str, str] = {}

    def do(verb: str, **fields: Any) -> None:
        said[verb] = browser.said(verb, **fields)

    do("pause-queue", queue=shop.name)
    do("resume-queue", queue=shop.name)
    for verb in ("grow", "shrink", "shutdown"):
        do(verb, worker="steady")
    do("retry", id=shop.sent["failed"].id)
    do("revoke", id=app.tasks["slow"].apply_async((1,), countdown=DAY).id)
    do("revoke-workflow", id=shop.sent["failed"].id)
    letters = letters_of(app, shop.name)
    one, two, three, *_ = (each.message_id for each in letters.peek(50) if each.reason == "unknown_task")
    for each in (one, two):
        assert each in browser.get(f"/dead/{shop.name}")
    do("redrive", queue=shop.name, id=one)
    text = re.search(
        r"<textarea[^>]*>(.*?)</textarea>", browser.get(f"/letter?queue={shop.name}&id={two}"), re.S
    )
    assert text is not None
    do("redrive-edited", queue=shop.name, id=two, body=html.unescape(text[1]).strip())
    do("delete", queue=shop.name, id=three)
    do("redrive-fitting", queue=shop.name, task="nobody.else")
    Book(app).add(Entry(name="hourly", task="weigh", schedule=as_schedule(3600), args=("x" * 50_000,)))
    for verb in ("run-now", "pause-schedule", "resume-schedule"):
        do(verb, name="hourly")
    assert set(said) == set(ACTIONS)
    assert [text for text in said.values() if "denied" in text or "failed" in text] == []


def command(shop: Shop, app: CloudQ) -> None:
    sent = app.tasks["slow"].apply_async((1,), countdown=DAY).id
    letter = next(each.message_id for each in letters_of(app, shop.name).peek(50))
    with pytest.MonkeyPatch.context() as patch:
        module = types.ModuleType("privileged_shop")
        module.app = app  # type: ignore[attr-defined]
        patch.setitem(sys.modules, "privileged_shop", module)
        patch.setenv("CLOUDQ_APP", "privileged_shop:app")

        def run(line: str, codes: tuple[int, ...] = (0,)) -> None:
            done = CliRunner().invoke(cli, shlex.split(line))
            assert done.exit_code in codes, f"{line}: {done.output} {done.exception}"

        run("call add --args '[8, 8]'")
        run("call slow --args '[1]' --countdown 86400 --task-id later")
        run("call slow --args '[1]' --countdown 172800 --task-id later", (2,))  # scheduled already
        run(f"revoke later {sent} --json")
        run("revoke --header tenant=7")
        run(f"result {shop.sent['failed'].id} --tree")
        run(f"result {shop.sent['weigh'].id} --forget")
        run(f"retry {shop.sent['failed too'].id}")
        run("status", (0, 69))
        run("inspect ping --timeout 0.1", (69,))
        run("control rate-limit add 10/m --timeout 0.1", (0, 69))
        run(f"control pause {shop.name}")
        run(f"control resume {shop.name}")
        run("events --timeout 0.1 --back 60")
        run("history --limit 5")
        run(f"history {shop.sent['weigh'].id}")
        run(f"queues depth {shop.name} {shop.fifo}")
        run(f"queues signals {shop.name} {shop.fifo}")
        run(f"dlq list {shop.name}")
        run(f"dlq show {shop.name} {letter}")
        run(f"dlq redrive {shop.name} --id {letter}")
        run(f"dlq redrive {shop.fifo} --limit 1")
        run(f"dlq list {shop.fifo}")
        run(f"dlq purge {shop.name} --task nobody.else --yes")
        run("schedule add nightly --task add --every 60 --args '[1, 1]'")
        run("schedule list")
        for verb in ("run-now", "pause", "resume", "remove"):
            run(f"schedule {verb} nightly")


def redrive(shop: Shop, app: CloudQ, recorder: Recorder) -> None:
    rules = [{"queue": shop.name, "rate": 100}, {"queue": shop.fifo, "rate": 100}]
    others = [{**each, "task": "other"} for each in rules]  # what is not meant is given back
    done = make_redrive(app, [*others, *rules])({}, Context(60.0))
    counts = [each["count"] for each in done["redriven"]]
    assert counts[:2] == [0, 0]
    assert all(counts[2:])


def answer(shop: Shop, app: CloudQ, recorder: Recorder) -> None:
    api = make_api(app, tasks=("*",), auth="iam")

    def ask(method: str, path: str, **body: Any) -> int:
        context = {"http": {"method": method, "path": path}, "authorizer": {"iam": {"userArn": "arn"}}}
        event = {
            "rawPath": path,
            "requestContext": context,
            "body": json.dumps(body),
            "queryStringParameters": body,
        }
        return int(api(event, Context(60.0))["statusCode"])

    assert ask("POST", "/tasks", task="add", args=[5, 5]) == 202
    assert ask("POST", "/tasks", task="weigh", args=["x" * 150_000]) == 202
    assert ask("POST", "/tasks", task="step", args=[5], options={"group_id": "g"}) == 202
    assert ask("POST", "/tasks", task="slow", args=[5], options={"countdown": DAY, "task_id": "T5"}) == 202
    assert (
        ask("POST", "/tasks", task="slow", args=[5], options={"countdown": 2 * DAY, "task_id": "T5"}) == 400
    )
    with recorder.refusing("SendMessage"):
        assert ask("POST", "/tasks", task="add", args=[6, 6]) == 503
        assert ask("POST", "/tasks", task="weigh", args=["x" * 150_000]) == 503
    for result in shop.sent["chord"].parent.results:
        assert ask("GET", f"/tasks/{result.id}") == 200
    assert ask("GET", "/tasks/nobody", wait="0.01") == 200


def add_at_run_time(shop: Shop, app: CloudQ, recorder: Recorder) -> None:
    """An operator again. So many periodic tasks that the book of them lies in the bucket."""
    for name in ("one", "two"):
        Book(app).add(Entry(name=name, task="weigh", schedule=as_schedule(60), args=("x" * 50_000,)))


def synchronise(shop: Shop, app: CloudQ, recorder: Recorder) -> None:
    place = place_of(app)
    for wanted in ({"a": 60, "b": 60}, {"a": 60, "b": 120}, {"a": 60}):
        app.conf.beat_schedule = {
            name: {"task": "add", "schedule": every, "args": [1, 1]} for name, every in wanted.items()
        }
        app.conf.beat_schedule["c"] = {
            "task": "step",
            "schedule": 600,
            "args": [1],
            "options": {"group_id": "g"},
        }
        plan = make_plan(app, _entries(app), place)
        assert not plan.refused
        assert [error for _, error in apply(app, plan) if error] == []


#: By whose way of running tasks: who does what, one after the other.
RUNS: dict[str, list[tuple[str, Callable[[Shop, CloudQ, Recorder], None]]]] = {
    "worker": [
        ("publisher", publish), ("worker", work), ("worker", be_scaled_in), ("publisher", look_after), ("publisher", beat), ("dashboard", look),
        ("operator", operate), ("redrive", redrive),
    ],
    "lambda": [
        ("publisher", publish), ("lambda", invoke), ("api", answer), ("operator", add_at_run_time), ("sync", synchronise),
    ],
}  # fmt: skip
#: Whose run is only a part of what they do.
IN_PART = {("lambda", "publisher"), ("lambda", "operator")}


@pytest.fixture
def shop(moto_url: str, unique: str, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", moto_url)
    found = Shop(moto_url, unique)
    found.create()
    return found


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("case", RUNS)
def test_each_role_may_do_what_it_does_and_nothing_else(shop: Shop, case: str) -> None:
    with recording() as recorder:
        for role, run in RUNS[case]:
            with recorder.role(role), shop.app(**chosen(shop, role)) as app:
                run(shop, app, recorder)
    # Schedules send as a role of their own (EventBridge Scheduler User Guide, "Templated targets", "Dead-letter queue")
    senders = {sender for sender, _ in recorder.scheduled}
    assert senders == {SENDER}
    recorder.asked["scheduler"] = {Asked("sqs:SendMessage", queue) for _, queue in recorder.scheduled}

    missing: dict[str, Any] = {}
    unused: dict[str, Any] = {}
    for role, wishes in recorder.asked.items():
        rules = shop.policy(role)
        denied = sorted(each for each in wishes if not rules.allows(each))
        idle = sorted(rules.unused)
        missing |= {role: denied} if denied else {}
        unused |= {role: idle} if idle and (case, role) not in IN_PART else {}
    assert missing == {}, "calls that the policy does not allow"
    assert unused == {}, "grants that nothing needs"


def test_every_role_has_its_run() -> None:
    seen = {role for case in RUNS.values() for role, _ in case} | {"scheduler"}
    assert seen == set(ROLES)
