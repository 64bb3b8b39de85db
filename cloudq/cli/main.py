"""The ``cloudq`` command: where its parts come together.

Exit codes: 0 done, 1 an error that the last line explains, 2 wrong usage, 3 a worker that was
stopped while tasks were running (they will be delivered again), 4 one whose machine
goes away (not to be started again there), 69 no worker has answered.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated

import typer

import cloudq
from cloudq.cli import (
    beat,
    call,
    dashboard,
    demo,
    dlq,
    doctor,
    events,
    history,
    iam,
    inspect,
    keys,
    lambdas,
    local,
    package,
    queues,
    revoke,
    schedule,
    top,
    worker,
)
from cloudq.cli.common import one_line_errors

cli = typer.Typer(
    name="cloudq",
    help="Celery's way of working on Amazon SQS and Lambda, with no broker to run.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cloudq {cloudq.__version__}")
        raise typer.Exit


@cli.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Celery's way of working on Amazon SQS and Lambda, with no broker to run."""
    if debug:
        os.environ["CLOUDQ_DEBUG"] = "1"


cli.command("worker")(worker.worker)
cli.command("call")(call.call)
cli.command("result")(call.result)
cli.command("retry")(call.retry)
cli.command("revoke")(revoke.revoke)
cli.command("status")(inspect.status)
cli.command("events")(events.events)
cli.command("history")(history.history)
cli.command("top")(top.top)
cli.command("dashboard")(dashboard.dashboard)
cli.add_typer(inspect.inspect, name="inspect")
cli.add_typer(inspect.control, name="control")
cli.add_typer(queues.commands, name="queues")
cli.add_typer(dlq.commands, name="dlq")
cli.command("beat")(beat.beat)
cli.add_typer(schedule.commands, name="schedule")
cli.add_typer(keys.commands, name="keys")
cli.add_typer(lambdas.commands, name="lambda")
cli.command("package")(package.package)
cli.command("iam")(iam.iam)
cli.command("local")(local.local)
cli.command("demo")(demo.demo)
cli.command("doctor")(doctor.doctor)


def main() -> None:
    """Entry point."""
    for stream in (sys.stdout, sys.stderr):  # what is piped into a file is there at once, too
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)
    with one_line_errors(True if "--debug" in sys.argv[1:2] else None):
        cli()
