"""``cloudq queues``."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import typer

from cloudq.app import CloudQ
from cloudq.brokers.base import QueueSpec, dead_letter_name
from cloudq.cli.common import (
    AppOption,
    BackendOption,
    BrokerOption,
    JsonOption,
    err,
    find_app,
    one_line_errors,
    out,
    print_json,
    print_table,
    queues_of,
)
from cloudq.errors import ImproperlyConfigured, OperationalError
from cloudq.monitoring.lines import NAMESPACE, emf_line
from cloudq.monitoring.scaling import Signal, measure
from cloudq.priorities import base_of, families

commands = typer.Typer(help="List, create, measure and empty queues.", no_args_is_help=True)


@commands.command("list")
def list_queues(
    app: AppOption = None,
    prefix: Annotated[str, typer.Option(help="Only names that begin so.")] = "",
    as_json: JsonOption = False,
    broker: BrokerOption = None,
) -> None:
    """The queues there are."""
    with one_line_errors():
        names = list(_admin(find_app(app, broker).broker).list_queues(prefix))
        if as_json:
            print_json(names)
        else:
            out.print("\n".join(names) or "no queues", markup=False)


@commands.command()
def create(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="Queues to create; FIFO ones end in .fifo.")
    ],
    app: AppOption = None,
    visibility_timeout: Annotated[float, typer.Option(min=0, max=43200, help="Seconds.")] = 60.0,
    max_receive_count: Annotated[
        int, typer.Option(min=1, max=1000, help="Receipts before a message is a dead letter.")
    ] = 5,
    retention: Annotated[
        float, typer.Option(min=60, max=1209600, help="Seconds that messages are kept.")
    ] = 345600.0,
    results: Annotated[
        bool, typer.Option("--results", help="Create the results table as well (DynamoDB).")
    ] = False,
    broker: BrokerOption = None,
) -> None:
    """Create queues, each with its dead-letter queue and the siblings that the app's setting
    task_queue_priorities gives it. Existing ones are left as they are."""
    with one_line_errors():
        found = find_app(app, broker)
        admin = _admin(found.broker)
        priorities = found.conf.task_queue_priorities
        for name in families(priorities, names):
            # siblings share a dead-letter queue: one place to look, and to redrive from
            dead = dead_letter_name(base_of(priorities, name))
            spec = QueueSpec(name, visibility_timeout, max_receive_count, retention, dead)
            made = admin.create_queue(spec)
            out.print(f"{name}: {'created ' + ', '.join(made) if made else 'exists'}", markup=False)
        if results:
            create_table: Any = getattr(found.backend, "create_table", None)
            if create_table is None:
                raise ImproperlyConfigured(
                    "--results creates DynamoDB tables; this app's results are elsewhere"
                )
            create_table()
            out.print(f"results: {found.backend.url if found.backend else ''}", markup=False)


@commands.command()
def depth(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME...", help="Default: the app's default queue.")
    ] = None,
    app: AppOption = None,
    as_json: JsonOption = False,
    broker: BrokerOption = None,
) -> None:
    """How many messages are ready, held by workers, delayed, and dead (approximately)."""
    with one_line_errors():
        found = find_app(app, broker)
        rows: list[dict[str, Any]] = []
        for name in names or families(found.conf.task_queue_priorities, [found.conf.task_default_queue]):
            now = found.broker.depth(name)
            dead = found.broker.describe(name).dead_letter_queue
            rows.append(
                {
                    "queue": name,
                    "ready": now.visible,
                    "in_flight": now.in_flight,
                    "delayed": now.delayed,
                    "dead": found.broker.depth(dead).total if dead else None,
                }
            )
        if as_json:
            print_json(rows)
        else:
            print_table(("queue", "ready", "in flight", "delayed", "dead"), (each.values() for each in rows))


@commands.command("signals")
def signals(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME...", help="Default: the queues of the app's tasks.")
    ] = None,
    app: AppOption = None,
    every: Annotated[
        float | None, typer.Option(min=1, help="Again and again, with so many seconds between.")
    ] = None,
    emf: Annotated[
        bool, typer.Option("--emf", help="CloudWatch's embedded metric format, a line each.")
    ] = False,
    namespace: Annotated[str, typer.Option(help="CloudWatch namespace of --emf.")] = NAMESPACE,
    as_json: JsonOption = False,
    broker: BrokerOption = None,
    result_backend: BackendOption = None,
) -> None:
    """What scaling goes by: messages that wait, for each live worker too, and how long the oldest has waited."""
    if emf and as_json:
        raise typer.BadParameter("--emf and --json are two ways to print: give one")
    with one_line_errors():
        found = find_app(app, broker, result_backend)
        look = partial(_signals, found, names or queues_of(found))
        show = partial(_show, emf=emf, as_json=as_json, namespace=namespace)
        try:
            show(look())
            while every is not None:
                found.clock.sleep(every)
                try:
                    show(look())
                except OperationalError as error:  # a publisher outlives an outage
                    err.print(f"{error}; trying again", style="yellow", markup=False, soft_wrap=True)
        except KeyboardInterrupt:
            pass


def _signals(app: CloudQ, names: list[str]) -> list[Signal]:
    counted = app.backend is not None
    workers = app.control.workers() if counted else []
    found = measure(app.broker, app.clock, names, workers)
    return found if counted else [replace(each, workers=None) for each in found]


def _show(found: list[Signal], *, emf: bool, as_json: bool, namespace: str) -> None:
    if emf:
        sys.stdout.write("".join(emf_line(each, namespace) for each in found))
        sys.stdout.flush()
    elif as_json:
        print_json([each.plain() for each in found])
    else:
        headers = ("queue", "ready", "in flight", "delayed", "workers", "per worker", "oldest (s)")
        print_table(headers, ([*map(_cell, list(each.plain().values())[:-1])] for each in found))


def _cell(value: Any) -> Any:
    return "?" if value is None else round(value, 1) if isinstance(value, float) else value


@commands.command()
def purge(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    app: AppOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    broker: BrokerOption = None,
) -> None:
    """Delete every message of a queue, those that workers hold included."""
    with one_line_errors():
        found = find_app(app, broker)
        count = found.broker.depth(name).total
        if not yes:
            typer.confirm(f"Delete about {count} messages of {name} for good?", abort=True)
        found.broker.purge(name)
        out.print(f"{name}: about {count} messages deleted", markup=False)


@commands.command()
def delete(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    app: AppOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    broker: BrokerOption = None,
) -> None:
    """Delete a queue and its dead-letter queue, with what is in them."""
    with one_line_errors():
        found = find_app(app, broker)
        dead = found.broker.describe(name).dead_letter_queue
        if not yes:
            typer.confirm(f"Delete {name}{' and ' + dead if dead else ''} for good?", abort=True)
        admin = _admin(found.broker)
        admin.delete_queue(name)
        if dead == dead_letter_name(name):
            admin.delete_queue(dead)
        out.print(f"{name}: deleted", markup=False)


def _admin(broker: Any) -> Any:
    if not hasattr(broker, "create_queue"):
        raise ImproperlyConfigured(f"the broker {broker.url} cannot create or list queues")
    return broker
