"""``cloudq schedule``: periodic tasks, as declared and as changed at run time."""

from __future__ import annotations

from datetime import tzinfo
from typing import Annotated, Any

import typer

from cloudq.beat.book import Book, Listed
from cloudq.beat.marks import Mark, Marks
from cloudq.beat.ticker import send_now
from cloudq.cli.common import (
    AppOption,
    BackendOption,
    BrokerOption,
    JsonOption,
    find_app,
    moment,
    one_line_errors,
    out,
    parse_json,
    print_json,
    print_table,
)
from cloudq.errors import ScheduleError
from cloudq.producer import zone_of
from cloudq.schedules.entry import entry_from

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
        listed = Book(found).read()
        marks = Marks(found)
        marks.load()
        now, zone = found.clock.time(), zone_of(found.conf)
        rows = [_row(each, marks.get(name), now, zone) for name, each in listed.items()]
        if as_json:
            print_json(rows)
            return
        if not rows:
            out.print("no periodic tasks", markup=False)
            return
        columns = ("name", "task", "schedule", "state", "next (UTC)", "last sent (UTC)", "from")
        print_table(columns, ([_cell(row, column) for column in columns] for row in rows))


def _row(each: Listed, mark: Mark | None, now: float, zone: tzinfo) -> dict[str, Any]:
    entry = each.entry
    return {
        "name": entry.name,
        "task": entry.task,
        "schedule": str(entry.schedule),
        "state": f"broken: {each.fault}" if each.fault else "paused" if each.paused else "on",
        "next": None if each.paused else entry.next_due(now, zone),
        "last_sent": mark.sent if mark else None,
        "from": "store" if each.stored else "code",
        "catchup": entry.catchup,
        "args": list(entry.args),
        "kwargs": dict(entry.kwargs),
        "options": dict(entry.options),
    }


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
