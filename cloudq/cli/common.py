"""What the commands share: finding the app, printing, and saying what went wrong in one line."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cloudq.app import CloudQ
from cloudq.errors import CloudQError
from cloudq.loader import load_app
from cloudq.monitoring.overview import declared_queues
from cloudq.serializers.fields import Fault, task_id

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

AppOption = Annotated[
    str | None,
    typer.Option("--app", "-A", metavar="MODULE:APP", help="The app (or environment variable CLOUDQ_APP)."),
]
BrokerOption = Annotated[
    str | None, typer.Option("--broker", "-b", metavar="URL", help="Broker URL, over the app's own.")
]
BackendOption = Annotated[
    str | None, typer.Option("--result-backend", metavar="URL", help="Results URL, over the app's own.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def checked_id(value: str) -> str:
    """A task's id as one may have: the ``parser`` of arguments. Others could have no record, and are refused."""
    if not value:
        raise typer.BadParameter("a task's id is not empty")
    try:
        return task_id(value, "ID")
    except Fault as fault:
        raise typer.BadParameter(f"a task's id {fault.says}") from None


def find_app(
    path: str | None, broker: str | None = None, backend: str | None = None, *, needed: bool = False
) -> CloudQ:
    """The app of ``-A`` or CLOUDQ_APP; without either (and unless ``needed``) one made of the settings alone."""
    app = load_app(path) if needed or path or os.environ.get("CLOUDQ_APP") else CloudQ("cloudq")
    if broker:
        app.conf.broker_url = broker
    if backend:
        app.conf.result_backend = backend
    return app


def queues_of(app: CloudQ) -> list[str]:
    """The queues that the app's tasks go to, as far as its declarations tell."""
    return declared_queues(app.tasks, app.conf)


@contextmanager
def one_line_errors(debug: bool | None = None) -> Iterator[None]:
    """Errors a user can do something about become one line on stderr and exit code 1."""
    show_all = debug if debug is not None else bool(os.environ.get("CLOUDQ_DEBUG"))
    try:
        yield
    except CloudQError as error:
        if show_all:
            err.print(traceback.format_exc(), markup=False)
        err.print(f"error: {error}", style="bold red", markup=False, soft_wrap=True)
        raise typer.Exit(1) from None
    except (ImportError, SyntaxError) as error:
        if show_all:
            err.print(traceback.format_exc(), markup=False)
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{frame.filename}:{frame.lineno}"
        err.print(
            f"error: the app cannot be imported: {error} ({where}; --debug shows all)",
            style="bold red",
            markup=False,
            soft_wrap=True,
        )
        raise typer.Exit(1) from None


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")


def print_table(headers: Iterable[str], rows: Iterable[Iterable[Any]], title: str | None = None) -> None:
    """A table for people."""
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for number, header in enumerate(headers):
        table.add_column(header, no_wrap=number == 0)  # the first one is there to be copied
    for row in rows:
        table.add_row(*("" if cell is None else escape(str(cell)) for cell in row))
    # Into a file or a pipe nothing is folded or cut: programs and grep read it.
    out.print(table, width=None if out.is_terminal else 300)


def placed(url: str) -> str:
    """A URL for people: of a file that is found from the present folder, say which that is."""
    name, _, path = url.partition(":///")
    if name not in ("sqlite", "file") or not path or path.startswith("/"):
        return url
    return f"{url} (in {os.getcwd()})"


def moment(seconds: float | None) -> str:
    """A time for people, UTC."""
    if seconds is None:
        return ""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def parse_json(text: str, what: str, kind: type) -> Any:
    """A JSON argument of the command line."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise typer.BadParameter(f"{what} is not JSON: {error}") from None
    if not isinstance(value, kind):
        raise typer.BadParameter(
            f"{what} is a JSON {'array' if kind is list else 'object'}, like {'[1, 2]' if kind is list else '{}'}"
        )
    return value
