"""What ``cloudq doctor`` looks at for delays and periodic tasks: (level, what, detail)."""

from __future__ import annotations

from collections.abc import Iterator

from cloudq import periodic
from cloudq.app import CloudQ
from cloudq.aws.port import AwsError, Call
from cloudq.brokers.base import is_fifo
from cloudq.delays.eventbridge import open_one_shots, serves
from cloudq.deploy.expressible import refusal
from cloudq.errors import AccessDenied, CloudQError
from cloudq.schedules.entry import Entry

Finding = tuple[str, str, str]


def delays(app: CloudQ, queues: list[str]) -> Iterator[Finding]:
    """The scheduler tier, where the settings ask for it."""
    if app.conf.delay_tier == "hop":
        return
    try:
        open_one_shots(app.broker, app.conf, app.clock)
    except CloudQError as error:
        # a laptop's embedded broker shares the settings of production, and hops
        yield ("FAIL" if serves(app.broker) else "warn"), "delays", str(error)
        return
    group = app.conf.scheduler_group
    try:
        app.broker.port.call(Call("scheduler", "GetScheduleGroup", {"Name": group}))  # type: ignore[attr-defined]
        yield "ok", "delays", f"beyond 900 s by EventBridge Scheduler, schedule group {group}"
    except AccessDenied as error:
        yield "warn", "delays", f"whether the schedule group {group} exists cannot be told: {error}"
    except AwsError as error:
        if error.code != "ResourceNotFoundException":
            raise
        yield (
            "FAIL",
            "delays",
            f"there is no schedule group {group!r}: Terraform, or `cloudq schedule sync --yes`",
        )
    for queue in filter(is_fifo, queues):
        if not app.broker.deduplicates_by_content(queue):  # type: ignore[attr-defined]
            yield (
                "FAIL",
                f"queue {queue}",
                "content-based deduplication is off: EventBridge Scheduler cannot send to it (Terraform: "
                "content_based_deduplication = true)",
            )


def periodic_tasks(app: CloudQ) -> Iterator[Finding]:
    """The entries that code and settings declare."""
    stored = app.backend is not None
    entries = periodic.declared(app.periodic_entries, app.conf.beat_schedule, app.tasks, stored).values()
    if not entries:
        return
    yield "ok", "periodic tasks", f"{len(entries)} declared"
    for entry in entries:
        if app.tasks.get(entry.task) is None:
            yield "warn", "periodic tasks", f"{entry.name}: no task {entry.task} is registered in this app"
    yield from _senders(app, list(entries), stored)


def _senders(app: CloudQ, entries: list[Entry], stored: bool) -> Iterator[Finding]:
    rest = [each.name for each in entries if not app.conf.schedule_sync or refusal(app, each) is not None]
    if rest and not stored:
        what = "they" if not app.conf.schedule_sync else ", ".join(rest)
        yield "warn", "periodic tasks", f"{what} cannot be sent by `cloudq beat`: it needs a results store"
