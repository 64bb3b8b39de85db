"""``cloudq schedule``: periodic tasks, as declared and as changed at run time."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cloudq.app import CloudQ
from cloudq.beat.book import Book
from cloudq.beat.rows import rows as rows_of
from cloudq.beat.ticker import send_now
from cloudq.cli.common import (
    AppOption,
    BackendOption,
    BrokerOption,
    JsonOption,
    err,
    find_app,
    moment,
    one_line_errors,
    out,
    parse_json,
    print_json,
    print_table,
)
from cloudq.deploy.sync import Plan, apply, make_plan, place_of
from cloudq.errors import ScheduleError
from cloudq.moments import zone_of
from cloudq.periodic import declared
from cloudq.schedules.entry import Entry, entry_from

commands = typer.Typer(help="List and change periodic tasks.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The periodic task's name.")]


@commands.command("list")
def list_entries(
    app: AppOption = None,
    as_json: JsonOption = False,
    broker: BrokerOption = None,
    result_backend: BackendOption = None,
) -> None:
    """Every periodic task, when it runs next, and whether it is paused."""
    with one_line_errors():
        found = find_app(app, broker, result_backend, needed=True)
        rows = rows_of(found)
        if as_json:
            print_json(rows)
            return
        if not rows:
            out.print("no periodic tasks", markup=False)
            return
        columns = ("name", "task", "schedule", "state", "next (UTC)", "last sent (UTC)", "from")
        print_table(columns, ([_cell(row, column) for column in columns] for row in rows))


def _cell(row: dict[str, Any], column: str) -> Any:
    if column == "next (UTC)":
        return moment(row["next"])
    if column == "last sent (UTC)":
        return moment(row["last_sent"])
    return row[column]


@commands.command()
def add(
    name: Name,
    task: Annotated[str, typer.Option("--task", "-t", help="The task to run.")],
    cron: Annotated[str | None, typer.Option(help="Cron text: '*/5 * * * *', '@daily'.")] = None,
    every: Annotated[float | None, typer.Option(min=1, help="Seconds between runs.")] = None,
    solar: Annotated[
        str | None, typer.Option(metavar="EVENT,LAT,LON", help="By the sun: 'sunset,48.85,2.35'.")
    ] = None,
    args: Annotated[str, typer.Option(help="Positional arguments, a JSON array.")] = "[]",
    kwargs: Annotated[str, typer.Option(help="Keyword arguments, a JSON object.")] = "{}",
    queue: Annotated[str | None, typer.Option("--queue", "-Q", help="Queue to send to.")] = None,
    expires: Annotated[
        float | None, typer.Option(help="Seconds after which a run is not worth it any more.")
    ] = None,
    timezone: Annotated[str | None, typer.Option(help="Time zone, like Europe/Paris.")] = None,
    catchup: Annotated[str, typer.Option(help="Missed runs: latest | all | skip")] = "latest",
    skip_if_running: Annotated[
        bool, typer.Option("--skip-if-running", help="Leave out while the run before has not ended.")
    ] = False,
    jitter: Annotated[float, typer.Option(min=0, help="Put each run off by up to so many seconds.")] = 0.0,
    replace: Annotated[
        bool, typer.Option("--replace", help="Put in place of a stored one of that name.")
    ] = False,
    app: AppOption = None,
    broker: BrokerOption = None,
    result_backend: BackendOption = None,
) -> None:
    """Add a periodic task, kept in the results store. Runs from its next slot on."""
    with one_line_errors():
        options = {key: value for key, value in (("queue", queue), ("expires", expires)) if value is not None}
        entry = entry_from(
            name,
            {
                "task": task,
                "schedule": _schedule(cron, every, solar),
                "args": parse_json(args, "--args", list),
                "kwargs": parse_json(kwargs, "--kwargs", dict),
                "options": options,
                "timezone": timezone,
                "catchup": catchup,
                "skip_if_running": skip_if_running,
                "jitter": jitter,
            },
        )
        found = find_app(app, broker, result_backend, needed=True)
        Book(found).add(entry, replacing=replace)
        following = entry.next_due(found.clock.time(), zone_of(found.conf))
        known = "" if found.tasks.get(task) else f" (no task {task} is registered in this app)"
        out.print(f"{name} added, next run {moment(following) or 'never'} UTC{known}", markup=False)


def _schedule(cron: str | None, every: float | None, solar: str | None) -> Any:
    given = [each for each in (cron, every, solar) if each is not None]
    if len(given) != 1:
        raise typer.BadParameter("give one of --cron, --every and --solar")
    if solar is None:
        return given[0]
    event, *place = (part.strip() for part in solar.split(","))
    try:
        lat, lon = (float(each) for each in place)
    except ValueError:
        raise ScheduleError(f"--solar is EVENT,LAT,LON like 'sunset,48.85,2.35', got {solar!r}") from None
    return {"solar": {"event": event, "lat": lat, "lon": lon}}


@commands.command()
def remove(
    name: Name, app: AppOption = None, broker: BrokerOption = None, result_backend: BackendOption = None
) -> None:
    """Remove a periodic task that was added at run time."""
    with one_line_errors():
        Book(find_app(app, broker, result_backend, needed=True)).remove(name)
        out.print(f"{name} removed", markup=False)


@commands.command()
def pause(
    name: Name, app: AppOption = None, broker: BrokerOption = None, result_backend: BackendOption = None
) -> None:
    """Send no more runs of a periodic task until it is resumed."""
    with one_line_errors():
        Book(find_app(app, broker, result_backend, needed=True)).pause(name)
        out.print(f"{name} paused", markup=False)


@commands.command()
def resume(
    name: Name, app: AppOption = None, broker: BrokerOption = None, result_backend: BackendOption = None
) -> None:
    """Go on with a paused periodic task; what was due meanwhile is not made up for."""
    with one_line_errors():
        Book(find_app(app, broker, result_backend, needed=True)).resume(name)
        out.print(f"{name} resumed", markup=False)


@commands.command("run-now")
def run_now(
    name: Name, app: AppOption = None, broker: BrokerOption = None, result_backend: BackendOption = None
) -> None:
    """Send one run at once, beside the schedule; prints the task id."""
    with one_line_errors():
        found = find_app(app, broker, result_backend, needed=True)
        listed = Book(found).get(name)
        if listed.fault:
            raise ScheduleError(listed.fault)
        out.print(send_now(found, listed.entry), markup=False)


@commands.command()
def sync(
    app: AppOption = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do it; without this the plan is only shown.")
    ] = False,
    group: Annotated[str | None, typer.Option(help="Schedule group (default: scheduler_group).")] = None,
    role_arn: Annotated[
        str | None, typer.Option(help="Role to send with (default: scheduler_role_arn).")
    ] = None,
    dead_letter_arn: Annotated[
        str | None, typer.Option(help="Queue for what cannot be sent (default: scheduler_dead_letter_arn).")
    ] = None,
    message_ids: Annotated[
        bool, typer.Option("--message-ids", help="Take SQS's message ids as task ids (emulators need it).")
    ] = False,
    as_json: JsonOption = False,
    broker: BrokerOption = None,
    result_backend: BackendOption = None,
) -> None:
    """Make EventBridge schedules for the periodic tasks: no beat needed. Shows a plan; --yes carries it out.

    Exit code 1 when an entry cannot be said in EventBridge's words and nobody else sends it, or a change failed.
    """
    with one_line_errors():
        found = find_app(app, broker, result_backend, needed=True)
        place = place_of(found, group, role_arn, dead_letter_arn, message_ids)
        plan = make_plan(found, _entries(found), place)
        if as_json:
            print_json(_plain(plan))
        else:
            _show(plan, found.conf.schedule_sync)
        failed = _apply(found, plan, quiet=as_json) if yes else 0
        if not yes and not plan.empty and not as_json:
            out.print("nothing was changed; --yes carries the plan out", markup=False)
        if failed or (plan.refused and not found.conf.schedule_sync):
            raise typer.Exit(1)


def _entries(app: CloudQ) -> list[tuple[Entry, bool]]:
    if app.backend is None:  # no store, so nothing was changed at run time
        found = declared(app.periodic_entries, app.conf.beat_schedule, app.tasks, False)
        return [(entry, entry.enabled) for entry in found.values()]
    listed = Book(app).read().values()
    for each in listed:
        if each.fault:
            raise ScheduleError(
                f"{each.fault}: remove it (`cloudq schedule remove`), or sync with the newer release"
            )
    return [(each.entry, not each.paused) for each in listed]


_SIGNS = {"create": "+", "update": "~", "delete": "-", "keep": " "}


def _show(plan: Plan, rest_is_sent: bool) -> None:
    if plan.makes_group:
        out.print(f"+ schedule group {plan.group}", markup=False)
    for change in plan.changes:
        text = f"{_SIGNS[change.kind]} {change.kind:<6} {change.entry}"
        if change.params is not None:
            target = str(change.params["Target"]["Arn"]).rpartition(":")[2]
            where = f"{change.params['ScheduleExpression']} {change.params['ScheduleExpressionTimezone']} -> {target}"
            text += f": {where}{' (paused)' if change.params['State'] == 'DISABLED' else ''}"
        out.print(f"{text}  [{change.name}]", markup=False, soft_wrap=True)
        for name, before, after in change.differences:
            out.print(f"    {name}: {before} -> {after}", markup=False, soft_wrap=True)
    for entry, reason in plan.refused:
        what = "left to beat" if rest_is_sent else "REFUSED"
        out.print(f"! {what} {entry}: {reason}", markup=False, soft_wrap=True)
    if plan.refused and not rest_is_sent:
        out.print(
            "  set schedule_sync to true and run `cloudq beat` or handlers/beat.py: they send what is refused here, "
            "and only that",
            markup=False,
            soft_wrap=True,
        )
    if plan.empty:
        out.print(f"nothing to change in the schedule group {plan.group}", markup=False)


def _apply(app: CloudQ, plan: Plan, quiet: bool) -> int:
    """Carry the plan out; the number of changes that failed."""
    failed = 0
    for change, error in apply(app, plan):
        if error is not None:
            failed += 1
            err.print(
                f"error: {change.kind} {change.entry}: {error}",
                style="bold red",
                markup=False,
                soft_wrap=True,
            )
        elif not quiet:
            out.print(f"done: {change.kind} {change.entry}", markup=False)
    return failed


def _plain(plan: Plan) -> dict[str, Any]:
    return {
        "group": plan.group,
        "makes_group": plan.makes_group,
        "changes": [
            {
                "kind": each.kind,
                "name": each.name,
                "entry": each.entry,
                "schedule": each.params,
                "differences": [{"field": f, "before": b, "after": a} for f, b, a in each.differences],
            }
            for each in plan.changes
        ],
        "refused": [{"entry": entry, "reason": reason} for entry, reason in plan.refused],
    }
