"""``cloudq events``."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from typing import Annotated, Any

import typer

from cloudq.cli.common import (
    AppOption,
    BackendOption,
    JsonOption,
    err,
    find_app,
    moment,
    one_line_errors,
    out,
    print_json,
)
from cloudq.control.roster import LEVELS
from cloudq.monitoring.events import TYPES

#: What of an event is shown to people, beside its type, time, task and id.
_DETAILS = ("args", "kwargs", "result", "exception", "reason", "runtime", "retries", "active", "processed")


def events(
    app: AppOption = None,
    type_: Annotated[
        list[str] | None,
        typer.Option("--type", help="Only these types, like task-failed or 'worker-*'; may be repeated."),
    ] = None,
    task: Annotated[str | None, typer.Option("--task", help="Only this task; globs like 'shop.*'.")] = None,
    worker: Annotated[str | None, typer.Option("--worker", help="Only this worker; globs.")] = None,
    id: Annotated[str | None, typer.Option("--id", help="Only this task id.")] = None,
    back: Annotated[float, typer.Option(min=0, max=900, help="Begin with events so many seconds old.")] = 0.0,
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, help="End after so many.")] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", "-t", min=0, help="End after so many seconds.")
    ] = None,
    as_json: JsonOption = False,
    result_backend: BackendOption = None,
) -> None:
    """Show events as they happen. Workers write them at level `tasks` (worker --task-events, or monitoring=tasks)."""
    fits = _filter(type_ or [], task, worker, id)
    with one_line_errors():
        found = find_app(app, None, result_backend)
        _warn(found)
        receiver = found.events.Receiver(back=back)
        shown = 0
        try:
            for event in receiver.itercapture(timeout=timeout):
                if not fits(event):
                    continue
                print_json(event) if as_json else out.print(_line(event), markup=False, soft_wrap=True)
                shown += 1
                if limit is not None and shown >= limit:
                    break
        except KeyboardInterrupt:
            pass
        if receiver.reader.dropped:
            err.print(f"{receiver.reader.dropped} events came too fast for their worker", style="yellow")


def _filter(
    types: list[str], task: str | None, worker: str | None, task_id: str | None
) -> Callable[[dict[str, Any]], bool]:
    for each in types:
        if not any(fnmatch.fnmatchcase(name, each) for name in TYPES):
            raise typer.BadParameter(f"no event type is like {each!r}; there are {', '.join(TYPES)}")

    def fits(event: dict[str, Any]) -> bool:
        return (
            (not types or any(fnmatch.fnmatchcase(event["type"], each) for each in types))
            and (task is None or fnmatch.fnmatchcase(event.get("name") or "", task))
            and (worker is None or fnmatch.fnmatchcase(event["hostname"], worker))
            and (task_id is None or event.get("uuid") == task_id)
        )

    return fits


def _warn(found: Any) -> None:
    """Say so when nothing can come."""
    now = found.clock.time()
    alive = [each for each in found.control.workers() if each.alive(now)]
    silent = [each.hostname for each in alive if LEVELS.index(each.level) < 2]
    if not alive:
        err.print("no worker is alive now; waiting", style="yellow")
    elif silent:
        err.print(
            f"no events come from {', '.join(silent)}: they run at level "
            f"{', '.join(sorted({each.level for each in alive if each.hostname in silent}))} (monitoring=tasks is needed)",
            style="yellow",
            markup=False,
            soft_wrap=True,
        )


def _line(event: dict[str, Any]) -> str:
    what = f"{event.get('name') or ''}[{event['uuid']}]" if "uuid" in event else event["hostname"]
    details = " ".join(f"{name}={event[name]}" for name in _DETAILS if event.get(name) not in (None, ""))
    return f"{moment(event['timestamp'])} {event['type']:<17} {what} {details}".rstrip()
