"""``cloudq revoke``."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from cloudq import states
from cloudq.cli.common import (
    AppOption,
    BackendOption,
    JsonOption,
    checked_id,
    find_app,
    one_line_errors,
    out,
    print_json,
)


def revoke(
    ids: Annotated[
        list[str] | None, typer.Argument(parser=checked_id, metavar="ID...", help="Task ids.")
    ] = None,
    app: AppOption = None,
    terminate: Annotated[bool, typer.Option("--terminate", "-T", help="Stop it if it runs already.")] = False,
    tree: Annotated[
        bool, typer.Option("--tree", help="With the whole workflow that each ends, or is part of.")
    ] = False,
    header: Annotated[
        list[str] | None,
        typer.Option(
            "--header", metavar="NAME=VALUE", help="Every task with this header or stamp; may be repeated."
        ),
    ] = None,
    as_json: JsonOption = False,
    result_backend: BackendOption = None,
) -> None:
    """Have tasks not run (by id, or by a header), and with --terminate stop those that do."""
    with one_line_errors():
        headers = _headers(header or [])
        if not ids and not headers:
            raise typer.BadParameter("which tasks? Give ids, or --header NAME=VALUE")
        app_found = find_app(app, None, result_backend)
        control = app_found.control
        if tree:
            ids = [inner for each in ids or () for inner in app_found.unfinished(each)]
        found = control.revoke(ids, terminate=terminate) if ids else {}
        if headers:
            control.revoke_by_stamped_headers(headers, terminate=terminate)
    if as_json:
        print_json({"tasks": found, "headers": headers})
        return
    for task_id, state in found.items():
        out.print(f"{task_id}: {_told(state)}", markup=False, soft_wrap=True)
    for name, values in headers.items():
        shown = ", ".join(map(str, values))
        out.print(f"tasks with {name} = {shown}: not run from now on", markup=False, soft_wrap=True)


def _told(state: str) -> str:
    if state == states.REVOKED:
        return "revoked"
    if states.is_final(state):
        return f"has ended already: {state}"
    return f"runs ({state}) and goes on; --terminate stops it"


def _headers(given: list[str]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for each in given:
        name, equals, text = each.partition("=")
        if not (name and equals):
            raise typer.BadParameter(f"--header is NAME=VALUE, got {each!r}")
        values = found.setdefault(name, [])
        values.append(text)
        try:
            number = json.loads(text)
        except ValueError:
            continue
        if isinstance(number, int | float):  # a header may hold 7 as well as "7" (or true)
            values.append(number)
    return found
