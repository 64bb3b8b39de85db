"""``cloudq lambda``: functions on this machine."""

from __future__ import annotations

import json
import signal
import time
import uuid
from types import FrameType
from typing import Annotated, Any

import typer

from cloudq.app import CloudQ
from cloudq.aws_lambda.child import APP
from cloudq.aws_lambda.event import event_of
from cloudq.aws_lambda.mapping import EventSourceMapping, Rules
from cloudq.aws_lambda.sandbox import FunctionFailed, Sandbox
from cloudq.brokers.base import Delivery
from cloudq.cli.common import (
    AppOption,
    BackendOption,
    BrokerOption,
    err,
    find_app,
    one_line_errors,
    out,
    parse_json,
    print_json,
)

commands = typer.Typer(help="Run functions of AWS Lambda on this machine.", no_args_is_help=True)

HandlerOption = Annotated[
    str | None,
    typer.Option(
        "--handler", "-H", metavar="MODULE.FUNCTION", help="Default: the app's tasks, as handlers.consume."
    ),
]
MemoryOption = Annotated[
    int, typer.Option(min=128, max=10240, help="The function's memory, MB: sets its threads.")
]


def _environment(app: str | None, broker: str | None, backend: str | None, memory: int) -> dict[str, str]:
    """What the function's process is to know beyond our own environment."""
    given = {"CLOUDQ_APP": app, "CLOUDQ_BROKER_URL": broker, "CLOUDQ_RESULT_BACKEND": backend}
    return {**{k: v for k, v in given.items() if v}, "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(memory)}


@commands.command("invoke")
def invoke(
    app: AppOption = None,
    handler: HandlerOption = None,
    event: Annotated[
        typer.FileText | None, typer.Option("--event", "-e", help="File with the event, JSON; - is stdin.")
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", "-t", help="Make the event of a call of this task.")
    ] = None,
    args: Annotated[
        str, typer.Option("--args", "-a", metavar="JSON", help="Its positional arguments.")
    ] = "[]",
    kwargs: Annotated[
        str, typer.Option("--kwargs", "-k", metavar="JSON", help="Its keyword arguments.")
    ] = "{}",
    show: Annotated[bool, typer.Option("--show", help="Only print the event.")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, max=900, help="The function's timeout, seconds.")] = 30.0,
    memory: MemoryOption = 1769,
    broker: BrokerOption = None,
    result_backend: BackendOption = None,
) -> None:
    """Call the function once, in a process of its own, and print its answer.

    Exit code 1 when there is no answer, or when it reports a message as failed.
    """
    if (event is None) == (task is None):
        raise typer.BadParameter("give either --event FILE or --task NAME")
    with one_line_errors():
        given: Any = None
        if event is not None:
            try:
                given = json.load(event)
            except ValueError as error:
                raise typer.BadParameter(f"--event is not JSON: {error}") from None
        elif task is not None:
            found = find_app(app, broker, result_backend)
            given = _call(found, task, parse_json(args, "--args", list), parse_json(kwargs, "--kwargs", dict))
        if show:
            print_json(given)
            return
        sandbox = Sandbox(handler or APP, _environment(app, broker, result_backend, memory), timeout)
        try:
            answer = sandbox.invoke(given)
        except FunctionFailed as error:
            if error.trace:
                err.print(error.trace, markup=False, soft_wrap=True)
            err.print(f"error: {error}", style="bold red", markup=False, soft_wrap=True)
            raise typer.Exit(1) from None
        finally:
            sandbox.close()
        print_json(answer)
    failed = isinstance(answer, dict) and bool(answer.get("batchItemFailures"))
    raise typer.Exit(1 if failed else 0)


def _call(app: CloudQ, name: str, args: list[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The event of one message. It is in no queue: what gives it back or deletes it there finds nothing."""
    task = app.tasks.get(name)
    if task is not None:
        try:
            task.check_arguments(args, kwargs)
        except TypeError as error:
            raise typer.BadParameter(str(error)) from None
    call = app.producer.prepare(name, args, kwargs, {})
    now = time.time()
    delivery = Delivery(
        queue=call.queue,
        message_id=str(uuid.uuid4()),
        body=app.codec.encode(call.envelope, call.queue),
        receipt=f"local-{uuid.uuid4()}",
        receive_count=1,
        sent_at=now,
        first_received_at=now,
        received_at=now,
        invisible_until=now + 900,
    )
    return event_of([delivery])


@commands.command("serve")
def serve(
    app: AppOption = None,
    queue: Annotated[
        str | None,
        typer.Option("--queue", "-Q", "-q", help="The queue to poll; default: the app's default queue."),
    ] = None,
    handler: HandlerOption = None,
    batch_size: Annotated[
        int, typer.Option(help="Messages of a batch at most: 10, over 10 with a window.")
    ] = 10,
    window: Annotated[float, typer.Option(help="Batching window, seconds.")] = 0.0,
    concurrency: Annotated[
        int, typer.Option("--concurrency", "-c", help="Invocations at once, each a process.")
    ] = 1,
    timeout: Annotated[float, typer.Option(help="The function's timeout, seconds.")] = 10.0,
    memory: MemoryOption = 1769,
    report_failures: Annotated[
        bool,
        typer.Option(help="The mapping has ReportBatchItemFailures; without it every message is deleted."),
    ] = True,
    stop_when_idle: Annotated[
        float | None, typer.Option(min=0, help="Stop once the queue was empty for this many seconds.")
    ] = None,
    broker: BrokerOption = None,
    result_backend: BackendOption = None,
) -> None:
    """Poll a queue as an event source mapping does, and drive the function in processes of their own."""
    with one_line_errors():
        found = find_app(app, broker, result_backend, needed=handler is None)
        rules = Rules(
            queue or found.conf.task_default_queue, batch_size, window, concurrency, timeout, report_failures
        )
        environment = _environment(app, broker, result_backend, memory)
        mapping = EventSourceMapping(
            found.broker,
            rules,
            lambda: Sandbox(handler or APP, environment, timeout),
            lambda line: err.print(line, markup=False, soft_wrap=True),
        )
        _on_signals(mapping)
        where = f"{rules.queue} of {found.broker.url}"
        err.print(f"mapping {where} to {handler or 'the app'}; Ctrl-C stops it", markup=False, soft_wrap=True)
        mapping.run(stop_when_idle)
        out.print(
            f"{mapping.invocations} invocations, {mapping.deleted} messages deleted, {mapping.failed} left"
        )
        found.close()


def _on_signals(mapping: EventSourceMapping) -> None:
    def handle(number: int, frame: FrameType | None) -> None:
        mapping.stop()

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, handle)
