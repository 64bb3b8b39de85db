"""``cloudq beat``."""

from __future__ import annotations

import logging
import signal
from types import FrameType
from typing import Annotated

import typer

import cloudq
from cloudq.beat.beat import Beat
from cloudq.beat.book import Book
from cloudq.cli.common import (
    AppOption,
    BackendOption,
    BrokerOption,
    err,
    find_app,
    moment,
    one_line_errors,
    placed,
)
from cloudq.moments import zone_of
from cloudq.worker import logs

_LEVELS = ("debug", "info", "warning", "error", "critical")


def beat(
    app: AppOption = None,
    loglevel: Annotated[str, typer.Option("--loglevel", "-l", help=" | ".join(_LEVELS))] = "info",
    hostname: Annotated[
        str | None, typer.Option("--hostname", "-n", help="This beat's name, for logs.")
    ] = None,
    lease: Annotated[
        float | None, typer.Option(min=1, help="Seconds until another one takes over when this one dies.")
    ] = None,
    max_interval: Annotated[
        float | None, typer.Option(min=0.1, help="How often changed schedules are looked for, seconds.")
    ] = None,
    broker: BrokerOption = None,
    result_backend: BackendOption = None,
) -> None:
    """Send periodic tasks on time. Start as many as you like: one leads, another takes over when it dies."""
    if loglevel.lower() not in _LEVELS:
        raise typer.BadParameter(f"loglevel is one of {', '.join(_LEVELS)}")
    with one_line_errors():
        found = find_app(app, broker, result_backend, needed=True)
        if found.conf.worker_hijack_root_logger:
            logs.set_up(getattr(logging, loglevel.upper()))
        running = Beat(found, hostname=hostname, lease=lease, interval=max_interval)

        def handle(number: int, frame: FrameType | None) -> None:
            running.stop()

        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, handle)
        err.print(banner(running), markup=False, soft_wrap=True)
        code = running.run()
        found.close()
    raise typer.Exit(code)


def banner(running: Beat) -> str:
    """What the beat is about to do, for people."""
    app = running.app
    now, zone = app.clock.time(), zone_of(app.conf)
    lines = [
        f"cloudq {cloudq.__version__}  {running.hostname}",
        f"  app      {app.main}",
        f"  broker   {placed(app.broker.url)}",
        f"  store    {placed(app.backend.url) if app.backend is not None else 'disabled'}",
    ]
    for number, each in enumerate(Book(app).read().values()):
        entry = each.entry
        following = "paused" if each.paused else f"next {moment(entry.next_due(now, zone)) or 'never'}"
        lines.append(
            f"  {'entries' if number == 0 else '       '}  {entry.name}: {entry.task}, {entry.schedule}, {following}"
        )
    if len(lines) == 4:
        lines.append("  entries  none so far: declare some with @app.periodic, or `cloudq schedule add`")
    return "\n".join(lines) + "\n"
