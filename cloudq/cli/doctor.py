"""``cloudq doctor``: does everything an app needs exist, and does it fit together?"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated

import typer

import cloudq
from cloudq.app import CloudQ
from cloudq.aws.factory import make_port
from cloudq.brokers.base import QueueInfo
from cloudq.cli import doctor_time
from cloudq.cli.common import (
    AppOption,
    BackendOption,
    BrokerOption,
    JsonOption,
    find_app,
    one_line_errors,
    out,
    print_json,
    queues_of,
)
from cloudq.deploy import audit
from cloudq.deploy.iam import ROLES
from cloudq.deploy.rights import Place, rights_of
from cloudq.errors import CloudQError, ImproperlyConfigured
from cloudq.url import Url

OK, WARN, FAIL = "ok", "warn", "FAIL"
#: Places that every machine reaches.
CLOUDS = ("s3://", "gs://", "azureblob://")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    level: str
    what: str
    detail: str


def doctor(
    app: AppOption = None,
    queue: Annotated[
        list[str] | None, typer.Option("--queue", "-Q", help="Queues to look at; default: the app's.")
    ] = None,
    broker: BrokerOption = None,
    result_backend: BackendOption = None,
    aws: Annotated[
        bool,
        typer.Option("--aws", help="Also compare queues, functions and table in AWS with the app's needs."),
    ] = False,
    role: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND=ARN", help="With --aws: does this role suffice? worker=arn:aws:iam::...:role/..."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check the app, its settings, broker, queues and results store. Exit code 1 when something fails."""
    with one_line_errors():
        found = find_app(app, broker, result_backend)
        names = [each.strip() for part in queue or [] for each in part.split(",") if each.strip()]
        names = names or queues_of(found)
        findings = list(examine(found, names, app is not None))
        if aws or role:
            findings += deployed(found, names, role or [])
    if as_json:
        print_json([{"level": each.level, "what": each.what, "detail": each.detail} for each in findings])
    else:
        styles = {OK: "green", WARN: "yellow", FAIL: "bold red"}
        for each in findings:
            out.print(f"[{styles[each.level]}]{each.level:>4}[/]  {each.what:<22} ", end="")
            out.print(each.detail, markup=False, soft_wrap=True)
    if any(each.level == FAIL for each in findings):
        raise typer.Exit(1)


def deployed(app: CloudQ, queues: list[str], roles: list[str]) -> Iterator[Finding]:
    """What is in AWS beside what the app needs. ``roles``: ``worker=ARN``."""
    url = Url.parse(app.broker.url)
    if url.scheme != "sqs":
        raise ImproperlyConfigured(f"--aws looks at SQS; the app's broker is {app.broker.url}")
    port = make_port(
        url.query.get("region"), url.query.get("endpoint_url"), url.query.get("profile"), "boto3"
    )
    remarks = list(audit.audit(app, queues, port))
    for each in roles:
        kind, _, arn = each.partition("=")
        if kind not in ROLES or not arn.startswith("arn:"):
            raise ImproperlyConfigured(f"--role is KIND=ARN, KIND one of {', '.join(ROLES)}; got {each!r}")
        rights, _ = rights_of(app, queues, Place(arn.split(":")[4]), kind)
        remarks += audit.permissions(kind, arn, rights, port)
    for remark in remarks:
        yield Finding(remark.level, remark.what, remark.detail)


def examine(app: CloudQ, queues: list[str], loaded: bool) -> Iterator[Finding]:
    """Look at everything once."""
    yield Finding(
        OK, "python", f"{platform.python_version()} ({sys.executable}), cloudq {cloudq.__version__}"
    )
    if loaded:
        level = OK if len(app.tasks) else WARN
        detail = f"{app.main}: {len(app.tasks)} tasks" + (
            "" if len(app.tasks) else "; is the module that defines them in include=?"
        )
        yield Finding(level, "app", detail)
    yield from _guarded("broker", lambda: _broker(app, queues))
    yield from _guarded("results", lambda: _results(app))
    yield from _guarded("large messages", lambda: _large_messages(app))
    yield from _guarded("delays", lambda: (Finding(*each) for each in doctor_time.delays(app, queues)))
    yield from _guarded(
        "periodic tasks", lambda: (Finding(*each) for each in doctor_time.periodic_tasks(app))
    )


def _guarded(what: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from look()
    except CloudQError as error:
        yield Finding(FAIL, what, str(error))


def _broker(app: CloudQ, queues: list[str]) -> Iterator[Finding]:
    yield Finding(OK, "broker", app.broker.url)
    for queue in queues:
        yield from _guarded(f"queue {queue}", lambda name=queue: _queue(app, name))  # type: ignore[misc]


def _queue(app: CloudQ, queue: str) -> Iterator[Finding]:
    info = app.broker.describe(queue)
    depth = app.broker.depth(queue)
    yield Finding(
        OK,
        f"queue {queue}",
        f"{depth.visible} ready, {depth.in_flight} in flight, {depth.delayed} delayed; visibility {info.visibility_timeout:g} s",
    )
    if info.dead_letter_queue is None:
        yield Finding(
            WARN,
            f"queue {queue}",
            f"no dead-letter queue: unreadable messages cannot be buried; `cloudq queues create {queue}` or Terraform",
        )
    else:
        dead = app.broker.depth(info.dead_letter_queue).total
        level = WARN if dead else OK
        hint = f"; look with `cloudq dlq list {queue}`" if dead else ""
        yield Finding(level, f"queue {queue}", f"{dead} dead letters in {info.dead_letter_queue}{hint}")
    if info.max_receive_count is not None and info.max_receive_count < 2:
        yield Finding(
            WARN,
            f"queue {queue}",
            "maxReceiveCount is 1: one crash of a worker makes a dead letter of a healthy task",
        )
    yield from _fifo_retries(app, queue, info)
    if info.visibility_timeout < 10:
        yield Finding(
            WARN,
            f"queue {queue}",
            f"a visibility timeout of {info.visibility_timeout:g} s leaves little time to renew it",
        )


def _fifo_retries(app: CloudQ, queue: str, info: QueueInfo) -> Iterator[Finding]:
    """On FIFO queues a retry is a further receipt (decision 3), and receipts are limited."""
    if not info.fifo or info.max_receive_count is None:
        return
    for task in (app.tasks[name] for name in app.tasks):
        goes_here = (task.queue or app.conf.task_default_queue) == queue
        if goes_here and (task.max_retries is None or task.max_retries >= info.max_receive_count):
            yield Finding(
                WARN,
                f"queue {queue}",
                f"{task.name} may be retried {task.max_retries} times, but becomes a dead letter after "
                f"{info.max_receive_count} receipts: raise the queue's maxReceiveCount",
            )


def _large_messages(app: CloudQ) -> Iterator[Finding]:
    if app.claims is None:
        return
    app.claims.check()
    yield Finding(OK, "large messages", f"{app.claims.url}: readable")
    if app.broker.capabilities.reach == "cloud" and not app.claims.url.startswith(CLOUDS):
        yield Finding(
            WARN, "large messages", "they are kept on this machine, where workers elsewhere do not find them"
        )


def _results(app: CloudQ) -> Iterator[Finding]:
    backend = app.backend
    if backend is None:
        yield Finding(WARN, "results", "disabled: get() and duplicate detection do not work")
        return
    backend.read("task/cloudq-doctor")
    limit = backend.capabilities.max_value
    yield Finding(
        OK, "results", f"{backend.url}: readable" + (f", values up to {limit // 1024} KB" if limit else "")
    )
    if not backend.capabilities.conditional:
        yield Finding(FAIL, "results", "this store has no conditional writes, which cloudq relies on")
    if app.broker.capabilities.reach != "cloud" and backend.capabilities.reach == "cloud":
        yield Finding(WARN, "results", "results are in the cloud, but the broker is local to this machine")
