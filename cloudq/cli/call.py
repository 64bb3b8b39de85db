"""``cloudq call`` and ``cloudq result``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from cloudq.cli.common import (
    AppOption,
    BackendOption,
    BrokerOption,
    JsonOption,
    checked_id,
    err,
    find_app,
    moment,
    one_line_errors,
    out,
    parse_json,
    print_json,
)
from cloudq.errors import TimeoutError
from cloudq.results.handle import AsyncResult


class Drawing(StrEnum):
    """How a workflow is drawn."""

    text = "text"
    dot = "dot"
    mermaid = "mermaid"


def call(
    name: Annotated[str, typer.Argument(metavar="TASK", help="The task's name, like shop.tasks.add.")],
    app: AppOption = None,
    args: Annotated[
        str, typer.Option("--args", "-a", metavar="JSON", help="Positional arguments, like '[1, 2]'.")
    ] = "[]",
    kwargs: Annotated[str, typer.Option("--kwargs", "-k", metavar="JSON", help="Keyword arguments.")] = "{}",
    queue: Annotated[str | None, typer.Option("--queue", "-Q", help="Queue to send to.")] = None,
    countdown: Annotated[float | None, typer.Option(help="Seconds before it may run.")] = None,
    expires: Annotated[
        float | None, typer.Option(help="Seconds after which it must not run any more.")
    ] = None,
    priority: Annotated[
        int | None, typer.Option(min=0, max=9, help="9 is the highest; see task_queue_priorities.")
    ] = None,
    group_id: Annotated[
        str | None, typer.Option(help="FIFO: its group. Standard queues: its tenant (fair queues).")
    ] = None,
    task_id: Annotated[str | None, typer.Option(help="Its id; default: a new one.")] = None,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Wait for the result and print it.")] = False,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait at most.")] = None,
    as_json: JsonOption = False,
    broker: BrokerOption = None,
    result_backend: BackendOption = None,
) -> None:
    """Send a task by name; print its id, or with --wait its result."""
    with one_line_errors():
        found = find_app(app, broker, result_backend)
        options: dict[str, Any] = {
            "queue": queue,
            "countdown": countdown,
            "expires": expires,
            "priority": priority,
            "group_id": group_id,
            "task_id": task_id,
        }
        arguments = parse_json(args, "--args", list)
        keywords = parse_json(kwargs, "--kwargs", dict)
        task = found.tasks.get(name)
        if task is not None:
            try:
                task.check_arguments(arguments, keywords)
            except TypeError as error:
                raise typer.BadParameter(str(error)) from None
        try:
            sent = found.send_task(name, arguments, keywords, **options)
        except (
            TypeError,
            ValueError,
        ) as error:  # a countdown that is no time, an id that is scheduled already
            raise typer.BadParameter(str(error)) from None
        if not wait:
            if as_json:
                print_json({"id": sent.id})
            else:
                out.print(sent.id)
            return
        code = _show(sent, timeout, as_json, traceback=True)
    raise typer.Exit(code)


def result(
    id: Annotated[str, typer.Argument(parser=checked_id, metavar="ID", help="The task's id.")],
    app: AppOption = None,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Wait until it has ended.")] = False,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait at most.")] = None,
    traceback: Annotated[bool, typer.Option("--traceback", help="Print the traceback of a failure.")] = False,
    tree: Annotated[bool, typer.Option("--tree", help="Draw the workflow it ends, or is part of.")] = False,
    format: Annotated[Drawing, typer.Option("--format", help="How --tree draws it.")] = Drawing.text,
    forget: Annotated[bool, typer.Option("--forget", help="Delete the record.")] = False,
    as_json: JsonOption = False,
    result_backend: BackendOption = None,
) -> None:
    """Print a task's result. Exit code 1 when it failed, or when it has not ended within --timeout."""
    with one_line_errors():
        found = find_app(app, None, result_backend)
        handle = found.AsyncResult(id)
        if forget:
            handle.forget()
            return
        if tree:
            drawn = getattr(found.tree(id), format.value)()
            out.print(drawn, markup=False, highlight=False, soft_wrap=True)
            return
        code = _show(handle, timeout if wait else 0.0, as_json, traceback)
    raise typer.Exit(code)


def retry(
    id: Annotated[
        str,
        typer.Argument(
            parser=checked_id, metavar="WORKFLOW_ID", help="The id of its result, or of a task in it."
        ),
    ],
    app: AppOption = None,
    as_json: JsonOption = False,
    broker: BrokerOption = None,
    result_backend: BackendOption = None,
) -> None:
    """Try a failed workflow again, from the tasks that failed; what has succeeded is not run again."""
    with one_line_errors():
        sent = find_app(app, broker, result_backend).retry_workflow(id)
    if as_json:
        print_json({"retried": [each.id for each in sent]})
        return
    for each in sent:
        out.print(f"{each.id}: sent again", markup=False, soft_wrap=True)


def _show(handle: AsyncResult[Any], timeout: float | None, as_json: bool, traceback: bool) -> int:
    try:
        if timeout is None or timeout > 0:
            handle.get(timeout=timeout, propagate=False)
    except TimeoutError as error:
        err.print(f"error: {error}", style="bold red", markup=False)
        return 1
    record = handle._read()
    value = record.result
    failed = record.failed
    if as_json:
        print_json(
            {
                "id": handle.id,
                "state": record.state,
                "result": repr(value) if isinstance(value, BaseException) else value,
                "traceback": record.traceback,
                "retries": record.retries,
                "done_at": moment(record.done_at) or None,
                "children": list(record.children),
            }
        )
        return 1 if failed else 0
    if record.state == "SUCCESS":
        out.print(repr(value), markup=False, soft_wrap=True)
    else:
        shown = "" if value is None else f": {value!r}"
        out.print(f"{record.state}{shown}", markup=False, soft_wrap=True)
    if failed and traceback and record.traceback:
        err.print(record.traceback, markup=False, soft_wrap=True)
    return 1 if failed else 0
