"""``cloudq inspect``, ``cloudq control``, ``cloudq status``: live workers, asked and told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

import typer

from cloudq.app import CloudQ
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
from cloudq.control.roster import WorkerInfo
from cloudq.monitoring.overview import running_of

#: Nobody answered (Celery's and sysexits' EX_UNAVAILABLE).
UNAVAILABLE: Final = 69

inspect = typer.Typer(help="Ask live workers what they do.", no_args_is_help=True)
control = typer.Typer(help="Change what live workers do.", no_args_is_help=True)

DestinationOption = Annotated[
    list[str] | None,
    typer.Option("--destination", "-d", metavar="NAME", help="Only this worker; may be repeated, or a,b."),
]
TimeoutOption = Annotated[
    float | None,
    typer.Option("--timeout", "-t", min=0, help="Seconds to wait for answers. Default: two looks and 2 s."),
]


def _names(destination: list[str] | None) -> list[str] | None:
    found = [each.strip() for part in destination or [] for each in part.split(",") if each.strip()]
    return found or None


def _nobody(app: CloudQ, destination: list[str] | None) -> int:
    """Say why nobody answered; the exit code."""
    now = app.clock.time()
    workers = app.control.workers()
    alive = [each.hostname for each in workers if each.alive(now)]
    gone = [each for each in workers if each.hostname in (destination or ()) and not each.alive(now)]
    if gone:
        said = "; ".join(_vanished(each, now) for each in gone)
    elif not alive:
        lost = f" ({len(workers)} were lost lately: see `cloudq status`)" if workers else ""
        said = (
            f"no worker is alive on {app.need_store().backend.url}{lost}. Workers with monitoring=off, and those "
            "of another control_namespace or store, are not seen"
        )
    elif destination and not set(destination) & set(alive):
        said = f"no live worker is called {', '.join(destination)}; there are {', '.join(alive)}"
    else:
        said = f"{len(alive)} workers live, but none answered in time: give a longer --timeout"
    err.print(f"error: {said}", style="bold red", markup=False, soft_wrap=True)
    return UNAVAILABLE


def _vanished(worker: WorkerInfo, now: float) -> str:
    tasks = ", ".join(f"{each.get('name')}[{each.get('id')}]" for each in worker.running)
    return f"worker {worker.hostname} is lost: its last sign of life was {now - worker.at:.0f} s ago" + (
        f", it ran {tasks}" if tasks else ""
    )


# --- inspect ---------------------------------------------------------------------------------------


def _question(name: str, help_text: str, show: Callable[[Any], None]) -> None:
    method = name.replace("-", "_")

    def command(
        app: AppOption = None,
        destination: DestinationOption = None,
        timeout: TimeoutOption = None,
        as_json: JsonOption = False,
        result_backend: BackendOption = None,
    ) -> None:
        _ask(method, (), show, app, destination, timeout, as_json, result_backend)

    command.__doc__ = help_text
    for each in dict.fromkeys((name, method)):
        inspect.command(each, hidden=each != name)(command)


def _ask(
    method: str,
    args: tuple[Any, ...],
    show: Callable[[Any], None],
    app: str | None,
    destination: list[str] | None,
    timeout: float | None,
    as_json: bool,
    result_backend: str | None,
) -> None:
    names = _names(destination)
    with one_line_errors():
        found = find_app(app, None, result_backend)
        answers = getattr(found.control.inspect(names, timeout), method)(*args)
        code = 0 if answers else _nobody(found, names)
        if as_json:
            print_json(answers)
        else:
            for hostname, answer in answers.items():
                out.print(f"{hostname}", style="bold", markup=False)
                show(answer)
    raise typer.Exit(code)


def _lines(answer: Any) -> None:
    for each in answer or ["(none)"]:
        out.print(f"  {each}", markup=False, soft_wrap=True)


def _word(answer: Any) -> None:
    out.print(f"  {answer.get('ok', answer)}", markup=False)


def _mapping(answer: Mapping[str, Any], indent: str = "  ") -> None:
    for name, value in answer.items() or [("(none)", "")]:
        if isinstance(value, Mapping) and value:
            out.print(f"{indent}{name}", markup=False)
            _mapping(value, indent + "  ")
        else:
            out.print(f"{indent}{name}  {value}", markup=False, soft_wrap=True)


def _tasks(answer: list[dict[str, Any]]) -> None:
    if not answer:
        _lines(())
        return
    print_table(
        ("id", "task", "args", "kwargs", "queue", "since (UTC)"),
        (
            (
                each["id"],
                each["name"],
                each["args"],
                each["kwargs"],
                each["delivery_info"]["queue"],
                moment(each.get("time_start") or each["received"]),
            )
            for each in answer
        ),
    )


def _due(answer: list[dict[str, Any]]) -> None:
    _lines(
        [f"{moment(each['eta'])} UTC  {each['request']['name']}[{each['request']['id']}]" for each in answer]
    )


def _queues(answer: list[dict[str, Any]]) -> None:
    _lines([f"{each['name']}{' (paused)' if each['paused'] else ''}" for each in answer])


_question("active", "Tasks that run.", _tasks)
_question("reserved", "Tasks that a worker holds and has not begun.", _tasks)
_question(
    "scheduled", "Tasks that a worker holds for later, for a limit (delays are kept in the queue).", _due
)
_question("stats", "Numbers since the worker's start, pool, queues, resources.", _mapping)
_question("ping", "Who is there?", _word)
_question("revoked", "Ids that the worker remembers as revoked.", _lines)
_question("active-queues", "Queues that the worker consumes.", _queues)
_question("conf", "The worker's settings, without secrets.", _mapping)


@inspect.command()
def registered(
    attributes: Annotated[
        list[str] | None, typer.Argument(metavar="OPTION...", help="Options to show, like rate_limit.")
    ] = None,
    app: AppOption = None,
    destination: DestinationOption = None,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
    result_backend: BackendOption = None,
) -> None:
    """Tasks that the worker knows."""
    _ask("registered", tuple(attributes or ()), _lines, app, destination, timeout, as_json, result_backend)


@inspect.command("query-task")
def query_task(
    ids: Annotated[list[str], typer.Argument(parser=checked_id, metavar="ID...", help="Task ids.")],
    app: AppOption = None,
    destination: DestinationOption = None,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
    result_backend: BackendOption = None,
) -> None:
    """Which worker holds these tasks?"""

    def show(answer: dict[str, Any]) -> None:
        _lines([f"{task_id}: {state}, {task['name']}" for task_id, (state, task) in answer.items()])

    _ask("query_task", tuple(ids), show, app, destination, timeout, as_json, result_backend)


# --- control ---------------------------------------------------------------------------------------


def _order(
    method: str,
    args: tuple[Any, ...],
    app: str | None,
    destination: list[str] | None,
    timeout: float | None,
    as_json: bool,
    result_backend: str | None,
) -> None:
    names = _names(destination)
    with one_line_errors():
        found = find_app(app, None, result_backend)
        order = getattr(found.control, method)
        try:
            answers = order(*args, destination=names, timeout=timeout, reply=True)
        except (TypeError, ValueError) as error:
            raise typer.BadParameter(str(error)) from None
        code = 0 if answers else _nobody(found, names)
        if as_json:
            print_json(answers)
        for answer in answers:
            for hostname, said in answer.items():
                if not as_json:
                    out.print(
                        f"{hostname}: {said.get('ok') or 'error: ' + said['error']}",
                        markup=False,
                        soft_wrap=True,
                    )
                code = code or (1 if "error" in said else 0)
    raise typer.Exit(code)


@control.command("rate-limit")
def rate_limit(
    task: Annotated[str, typer.Argument(metavar="TASK")],
    rate: Annotated[str, typer.Argument(metavar="RATE", help="Like 10/m; 0 for none.")],
    app: AppOption = None,
    destination: DestinationOption = None,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
    result_backend: BackendOption = None,
) -> None:
    """Change a task's rate limit, until the worker restarts."""
    _order("rate_limit", (task, rate), app, destination, timeout, as_json, result_backend)


@control.command("time-limit")
def time_limit(
    task: Annotated[str, typer.Argument(metavar="TASK")],
    soft: Annotated[float | None, typer.Argument(metavar="SOFT", help="Seconds; 0 for none.")] = None,
    hard: Annotated[float | None, typer.Argument(metavar="HARD", help="Seconds; 0 for none.")] = None,
    app: AppOption = None,
    destination: DestinationOption = None,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
    result_backend: BackendOption = None,
) -> None:
    """Change a task's soft and hard time limits, until the worker restarts."""
    args = (task, soft or None, hard or None)
    _order("time_limit", args, app, destination, timeout, as_json, result_backend)


@control.command()
def autoscale(
    most: Annotated[int, typer.Argument(metavar="MAX", min=1)],
    least: Annotated[int, typer.Argument(metavar="MIN", min=1)],
    app: AppOption = None,
    destination: DestinationOption = None,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
    result_backend: BackendOption = None,
) -> None:
    """Change the bounds of workers that were started with --autoscale."""
    _order("autoscale", (most, least), app, destination, timeout, as_json, result_backend)


@control.command()
def pause(
    queue: Annotated[str, typer.Argument(metavar="QUEUE")],
    app: AppOption = None,
    result_backend: BackendOption = None,
) -> None:
    """Have no worker take messages of a queue, until `resume`. Tasks in hand are finished."""
    with one_line_errors():
        find_app(app, None, result_backend).control.pause(queue)
        out.print(f"{queue} is paused: workers stop at their next look", markup=False)


@control.command()
def resume(
    queue: Annotated[str, typer.Argument(metavar="QUEUE")],
    app: AppOption = None,
    result_backend: BackendOption = None,
) -> None:
    """Have workers take messages of a queue again."""
    with one_line_errors():
        was = find_app(app, None, result_backend).control.resume(queue)
        out.print(f"{queue} is resumed" if was else f"{queue} was not paused", markup=False)


def _register(command: Callable[..., None], name: str, help_text: str) -> None:
    """Under its name, and under Celery's spelling of it."""
    command.__doc__ = help_text
    for each in dict.fromkeys((name, name.replace("-", "_"))):
        control.command(each, hidden=each != name)(command)


def _with_queue(name: str, help_text: str) -> None:
    def command(
        queue: Annotated[str, typer.Argument(metavar="QUEUE")],
        app: AppOption = None,
        destination: DestinationOption = None,
        timeout: TimeoutOption = None,
        as_json: JsonOption = False,
        result_backend: BackendOption = None,
    ) -> None:
        _order(name.replace("-", "_"), (queue,), app, destination, timeout, as_json, result_backend)

    _register(command, name, help_text)


def _with_number(name: str, help_text: str) -> None:
    def command(
        n: Annotated[int, typer.Argument(metavar="N", min=1)] = 1,
        app: AppOption = None,
        destination: DestinationOption = None,
        timeout: TimeoutOption = None,
        as_json: JsonOption = False,
        result_backend: BackendOption = None,
    ) -> None:
        _order(name.replace("-", "_"), (n,), app, destination, timeout, as_json, result_backend)

    _register(command, name, help_text)


def _bare(name: str, help_text: str) -> None:
    def command(
        app: AppOption = None,
        destination: DestinationOption = None,
        timeout: TimeoutOption = None,
        as_json: JsonOption = False,
        result_backend: BackendOption = None,
    ) -> None:
        _order(name.replace("-", "_"), (), app, destination, timeout, as_json, result_backend)

    _register(command, name, help_text)


_with_queue("add-consumer", "Have workers consume one more queue, until they restart.")
_with_queue("cancel-consumer", "Have workers consume a queue no longer, until they restart.")
_with_number("pool-grow", "Run N tasks more at once.")
_with_number("pool-shrink", "Run N tasks fewer at once.")
_bare("pool-restart", "Replace the processes of prefork pools, each after its task.")
_bare("shutdown", "Stop workers warmly, as SIGTERM does.")


# --- status ----------------------------------------------------------------------------------------


def status(app: AppOption = None, as_json: JsonOption = False, result_backend: BackendOption = None) -> None:
    """Workers by their last signs of life, those that were lost lately too. Exit code 69 when none lives."""
    with one_line_errors():
        found = find_app(app, None, result_backend)
        now = found.clock.time()
        workers = found.control.workers()
        if as_json:
            print_json([each.plain(now) for each in workers])
        elif workers:
            rows = (
                (
                    each.hostname,
                    ("stopping" if each.stopping else "online") if each.alive(now) else "LOST",
                    f"{now - each.at:.0f} s ago",
                    f"{each.pool} {each.concurrency}",
                    each.stats.get("active", ""),
                    ", ".join(f"{q} (paused)" if q in each.paused else q for q in each.queues),
                )
                for each in workers
            )
            print_table(("worker", "state", "seen", "pool", "running", "queues"), rows)
            for each in running_of(workers, now):
                if each.lost:
                    out.print(
                        f"LOST with {each.worker}: {each.name}[{each.id}], which had run since "
                        f"{moment(each.since)} UTC; it is delivered again after its visibility timeout",
                        markup=False,
                        soft_wrap=True,
                    )
        code = 0 if any(each.alive(now) for each in workers) else _nobody(found, None)
    raise typer.Exit(code)
