"""``cloudq history``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cloudq import states
from cloudq.cli.common import (
    AppOption,
    BackendOption,
    JsonOption,
    checked_id,
    err,
    find_app,
    moment,
    one_line_errors,
    out,
    print_json,
    print_table,
)
from cloudq.control.deadletters import parse_moment
from cloudq.monitoring.history import Entry

#: States that a run can have ended in.
_ENDS = (states.SUCCESS, states.FAILURE, states.RETRY, states.REVOKED, states.REJECTED)


def history(
    id: Annotated[
        str | None, typer.Argument(parser=checked_id, metavar="ID", help="One task: all its runs, in full.")
    ] = None,
    app: AppOption = None,
    name: Annotated[
        str | None, typer.Option("--task", "--name", help="Only this task; globs like 'shop.*'.")
    ] = None,
    state: Annotated[str | None, typer.Option(help=" | ".join(_ENDS))] = None,
    worker: Annotated[str | None, typer.Option(help="Only this worker; globs.")] = None,
    queue: Annotated[str | None, typer.Option("--queue", "-Q", help="Only this queue; globs.")] = None,
    text: Annotated[str | None, typer.Option(help="In arguments, result or exception.")] = None,
    root: Annotated[
        str | None, typer.Option("--root", help="Only this workflow (its first task's id).")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="AGE|TIME", help="No older: 90, 15m, 2h, 3d, or 2026-01-31T12:00.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="AGE|TIME", help="No newer.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000)] = 50,
    cursor: Annotated[str | None, typer.Option(help="Where the page before ended.")] = None,
    as_json: JsonOption = False,
    result_backend: BackendOption = None,
) -> None:
    """Tasks that have ended, newest first (workers keep them at level `history`)."""
    if state is not None and state.upper() not in _ENDS:
        raise typer.BadParameter(f"--state is one of {', '.join(_ENDS)}, not {state!r}")
    with one_line_errors():
        found = find_app(app, None, result_backend)
        now = found.clock.time()
        criteria: dict[str, Any] = {
            "id": id,
            "name": name,
            "state": state.upper() if state else None,
            "worker": worker,
            "queue": queue,
            "text": text,
            "root_id": root,
            "since": _moment("--since", since, now),
            "until": _moment("--until", until, now),
        }
        try:
            page = found.history.query(limit, cursor, **criteria)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
    if as_json:
        print_json({"entries": [each.plain() for each in page.entries], "next": page.next})
        return
    if not page.entries:
        out.print("nothing that fits (workers keep history with monitoring=history)", markup=False)
    elif id is not None:
        for entry in page.entries:
            _show(entry)
    else:
        rows = (
            (each.id, moment(each.ended), each.state, each.name, _short(each), each.worker)
            for each in page.entries
        )
        print_table(("id", "ended (UTC)", "state", "task", "result", "worker"), rows)
    if page.next is not None:
        err.print(f"more: --cursor {page.next}", markup=False, soft_wrap=True)


def _short(entry: Entry) -> str:
    said = entry.exception or entry.result or entry.reason or ""
    return said if len(said) <= 60 else said[:59] + "…"


def _show(entry: Entry) -> None:
    for name, value in entry.plain().items():
        if value in (None, ""):
            continue
        shown = f"{moment(value)} UTC" if name == "ended" else value
        lead = "\n" if name == "traceback" else ""
        out.print(f"{name:<10}{lead}{shown}", markup=False, soft_wrap=True)
    out.print("")


def _moment(option: str, text: str | None, now: float) -> float | None:
    """``2h`` is two hours ago; else an ISO-8601 time, UTC unless it says otherwise."""
    if text is None:
        return None
    try:
        return parse_moment(text, now)
    except ValueError as error:
        raise typer.BadParameter(f"{option} is {error}") from None
