"""``cloudq worker``."""

from __future__ import annotations

import logging
import signal
from contextlib import nullcontext
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

import cloudq
from cloudq.app import CloudQ
from cloudq.beat.embedded import Embedded
from cloudq.cli.common import AppOption, BackendOption, BrokerOption, err, find_app, one_line_errors, placed
from cloudq.errors import CloudQError, ImproperlyConfigured, OperationalError
from cloudq.worker import autoscale, logs, reload
from cloudq.worker.companions import GOING, Companions
from cloudq.worker.worker import Worker

_LEVELS = ("debug", "info", "warning", "error", "critical")


def worker(
    app: AppOption = None,
    queue: Annotated[
        list[str] | None,
        typer.Option(
            "--queue",
            "-Q",
            "-q",
            metavar="A,B",
            help="Queues to consume; may be repeated. a=8,b=2: so many at once. a:3,b:1: shares.",
        ),
    ] = None,
    queue_order: Annotated[
        str | None,
        typer.Option(
            metavar="fair|strict|weighted",
            help="Who gets a free place: the queue that holds least, or the first with messages.",
        ),
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", "-c", min=1, help="Tasks at once.")
    ] = None,
    pool: Annotated[
        str | None,
        typer.Option("--pool", "-P", metavar="solo|threads|prefork|asyncio", help="Where tasks run."),
    ] = None,
    loglevel: Annotated[str, typer.Option("--loglevel", "-l", help=" | ".join(_LEVELS))] = "info",
    hostname: Annotated[str | None, typer.Option("--hostname", "-n", help="This worker's name.")] = None,
    broker: BrokerOption = None,
    result_backend: BackendOption = None,
    max_tasks_per_child: Annotated[
        int | None, typer.Option(min=1, help="Replace a child after this many tasks.")
    ] = None,
    max_memory_per_child: Annotated[
        int | None, typer.Option(min=1, help="Replace a child that grew past this many KiB.")
    ] = None,
    time_limit: Annotated[
        float | None, typer.Option(min=0, help="Hard limit of every task, seconds.")
    ] = None,
    soft_time_limit: Annotated[
        float | None, typer.Option(min=0, help="Soft limit of every task, seconds.")
    ] = None,
    prefetch_multiplier: Annotated[
        float | None,
        typer.Option(min=0, help="Messages held beyond the running ones, times the concurrency."),
    ] = None,
    visibility_timeout: Annotated[
        float | None, typer.Option(min=1, max=43200, help="Invisibility asked for and renewed, seconds.")
    ] = None,
    shutdown_timeout: Annotated[
        float | None, typer.Option(min=0, help="How long running tasks may go on after SIGTERM, seconds.")
    ] = None,
    poll_patience: Annotated[
        float | None,
        typer.Option(min=0, help="How long to wait for long polls when nothing else is left to do, seconds."),
    ] = None,
    task_events: Annotated[
        bool, typer.Option("--task-events", "-E", help="Write events for `cloudq events` (monitoring=tasks).")
    ] = False,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Serve metrics for Prometheus on this port.")
    ] = None,
    metrics_host: Annotated[str | None, typer.Option(help="Address for metrics; default 127.0.0.1.")] = None,
    log_format: Annotated[
        str | None, typer.Option(metavar="text|json", help="How to log; json: an object a line.")
    ] = None,
    events_log: Annotated[
        str | None, typer.Option(metavar="json|emf", help="Events as lines on stdout.")
    ] = None,
    autoscale_: Annotated[
        str | None,
        typer.Option("--autoscale", metavar="MAX,MIN", help="Tasks at once: more while messages wait."),
    ] = None,
    reload_: Annotated[
        bool, typer.Option("--reload", help="For development: start anew when an imported module changes.")
    ] = False,
    health_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Serve /healthz and /readyz on this port.")
    ] = None,
    health_host: Annotated[str | None, typer.Option(help="Address for health; default 127.0.0.1.")] = None,
    watch_interruption: Annotated[
        bool | None,
        typer.Option(
            "--watch-interruption/--no-watch-interruption",
            help="Stop in time for spot interruptions and scale-in. Default: on EC2.",
        ),
    ] = None,
    beat: Annotated[
        bool,
        typer.Option("--beat", "-B", help="Send periodic tasks, too: any number of workers may, one leads."),
    ] = False,
    stop_when_idle: Annotated[
        float | None, typer.Option(min=0, help="Stop once the queues have been empty for this many seconds.")
    ] = None,
) -> None:
    """Consume queues and run their tasks, until SIGTERM or Ctrl-C (once: warm; twice: at once)."""
    if loglevel.lower() not in _LEVELS:
        raise typer.BadParameter(f"loglevel is one of {', '.join(_LEVELS)}")
    level = getattr(logging, loglevel.upper())
    with one_line_errors():
        if reload_:
            reload.check()
        found = _find_app(app, broker, result_backend, reload_)
        settings: dict[str, Any] = {
            "worker_max_tasks_per_child": max_tasks_per_child,
            "worker_max_memory_per_child": max_memory_per_child,
            "task_time_limit": time_limit,
            "task_soft_time_limit": soft_time_limit,
            "worker_prefetch_multiplier": prefetch_multiplier,
            "worker_visibility_timeout": visibility_timeout,
            "worker_shutdown_timeout": shutdown_timeout,
            "worker_queue_order": queue_order,
            "worker_poll_patience": poll_patience,
            "worker_metrics_port": metrics_port,
            "worker_metrics_host": metrics_host,
            "worker_events_log": events_log,
            "worker_log_format": log_format,
            "monitoring": "tasks" if task_events and found.conf.monitoring in ("off", "workers") else None,
            "worker_autoscale": autoscale_,
            "worker_health_port": health_port,
            "worker_health_host": health_host,
            "worker_watch_interruption": watch_interruption,
        }
        found.conf.update({name: value for name, value in settings.items() if value is not None})
        if found.conf.worker_hijack_root_logger:
            logs.set_up(level, found.conf.worker_log_format)
        import os

        names = [each.strip() for part in queue or [] for each in part.split(",") if each.strip()]
        if found.conf.worker_autoscale is not None:
            if concurrency is not None:
                raise ImproperlyConfigured("--autoscale sets the concurrency: leave --concurrency out")
            concurrency = autoscale.parse(found.conf.worker_autoscale)[1]
        running = Worker(
            found,
            names,
            pool=pool,
            concurrency=concurrency,
            hostname=hostname,
            app_path=app or os.environ.get("CLOUDQ_APP"),
            loglevel=level,
            stop_when_idle=stop_when_idle,
        )
        running.check()
        err.print(banner(running), markup=False, soft_wrap=True)
        _on_signals(running)
        companions = Companions(running, reload=reload_)
        try:
            with Embedded(found) if beat else nullcontext():
                code = _run(running) if companions.start() else 0
        finally:
            companions.close()
        found.close()
    if companions.changed:
        reload.again()
    raise typer.Exit(GOING if companions.going else code)


def _find_app(app: str | None, broker: str | None, backend: str | None, reloads: bool) -> CloudQ:
    try:
        return find_app(app, broker, backend, needed=True)
    except CloudQError:
        raise
    except Exception:
        if not reloads:
            raise
        reload.wait_for_repair(Path.cwd())
        reload.again()


def _run(running: Worker) -> int:
    try:
        running.start()
    except OperationalError:
        running.stop("could not start")
        raise
    return running.run()


def _on_signals(running: Worker) -> None:
    def handle(number: int, frame: FrameType | None) -> None:
        running.stop(signal.Signals(number).name)

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, handle)


def banner(running: Worker) -> str:
    """What the worker is about to do, for people."""
    app = running.app
    backend = app.backend
    lines = [
        f"cloudq {cloudq.__version__}  {running.hostname}",
        f"  app      {app.main}",
        f"  broker   {placed(app.broker.url)}",
        f"  results  {placed(backend.url) if backend is not None else 'disabled'}",
        f"  pool     {running.pool_name}, concurrency {running.concurrency}",
    ]
    if len(running.queues) > 1:
        lines.append(f"  order    {running.queue_order}")
    for number, queue in enumerate(running.queues):
        info = running.infos[queue]
        dead = (
            f"dead letters in {info.dead_letter_queue}" if info.dead_letter_queue else "NO dead-letter queue"
        )
        more = f"visibility {info.visibility_timeout:g} s, {dead}"
        if info.max_receive_count:
            more += f" after {info.max_receive_count} receipts"
        lines.append(f"  {'queues' if number == 0 else '      '}   {queue} ({more})")
    names = list(app.tasks)
    for number, name in enumerate(names or ["none: is the module that defines them imported?"]):
        lines.append(f"  {'tasks ' if number == 0 else '      '}   {name}")
    return "\n".join(lines) + "\n"
