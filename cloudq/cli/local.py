"""``cloudq local``: a local AWS with the app's queues and table."""

from __future__ import annotations

import os
import threading
from typing import Annotated

import typer

from cloudq.app import CloudQ
from cloudq.cli.common import AppOption, find_app, one_line_errors, out, queues_of
from cloudq.cli.localserver import ENGINES, environment_for, furnish, serving


def local(
    app: AppOption = None,
    engine: Annotated[
        str, typer.Option(help=f"{' or '.join(ENGINES)}; moto slows down with every queued message.")
    ] = "moto",
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0: a free one.")] = 5000,
    queue: Annotated[
        list[str] | None, typer.Option("--queue", "-Q", help="Queues to create; default: the app's.")
    ] = None,
) -> None:
    """Start a local SQS and DynamoDB with the app's queues and table, and print how to use it."""
    with one_line_errors(), serving(engine, port) as url:
        environment = environment_for(url)
        queues = [each.strip() for part in queue or [] for each in part.split(",") if each.strip()]
        queues = queues or queues_of(find_app(app))
        os.environ.update(environment)
        made = furnish(CloudQ("local"), queues)
        out.print(f"{engine} at {url}: {', '.join(made)}\n", markup=False)
        out.print("Use it from other shells:\n", markup=False)
        for name, value in environment.items():
            out.print(f"export {name}='{value}'", markup=False, soft_wrap=True)
        out.print("\nCtrl-C stops it; everything in it is then gone.", markup=False)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            out.print("stopped")
