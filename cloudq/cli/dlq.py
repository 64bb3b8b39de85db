"""``cloudq dlq``: dead letters one can read."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from cloudq.app import CloudQ
from cloudq.cli.common import (
    AppOption,
    BrokerOption,
    JsonOption,
    err,
    find_app,
    moment,
    one_line_errors,
    out,
    print_json,
    print_table,
)
from cloudq.control.deadletters import DeadLetter, DeadLetters, Filter, only, parse_age
from cloudq.errors import MessageError

commands = typer.Typer(help="Read, send back and delete dead letters.", no_args_is_help=True)

Queue = Annotated[
    str, typer.Argument(metavar="QUEUE", help="The queue they came from (not the dead-letter queue).")
]
Task = Annotated[str | None, typer.Option("--task", help="Only this task.")]
Reason = Annotated[str | None, typer.Option("--reason", help="Only this reason, like unknown_task.")]
Older = Annotated[
    str | None, typer.Option("--older-than", metavar="AGE", help="Only older ones: 90, 15m, 2h, 3d.")
]
Ids = Annotated[list[str] | None, typer.Option("--id", help="Only this message or task id; may be repeated.")]


def _filter(task: str | None, reason: str | None, older: str | None, ids: list[str] | None) -> Filter:
    try:
        age = parse_age(older) if older else None
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return Filter(task, reason, only(ids or []), age)


@commands.command("list")
def list_letters(
    queue: Queue,
    app: AppOption = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1)] = 50,
    task: Task = None,
    reason: Reason = None,
    older_than: Older = None,
    as_json: JsonOption = False,
    broker: BrokerOption = None,
) -> None:
    """Dead letters with the reason why they are dead."""
    with one_line_errors():
        letters = _letters(find_app(app, broker), queue)
        found = letters.peek(limit, _filter(task, reason, older_than, None))
        if as_json:
            print_json([each.plain() for each in found])
            return
        if not found:
            out.print(f"no dead letters in {letters.name}", markup=False)
            return
        rows = (
            (e.message_id, moment(e.buried_at or e.sent_at), e.task, e.reason, _short(e.detail))
            for e in found
        )
        print_table(
            ("message", "buried (UTC)", "task", "reason", "detail"),
            rows,
            title=f"dead letters in {letters.name}",
        )


@commands.command()
def show(
    queue: Queue,
    id: Annotated[str, typer.Argument(metavar="ID", help="Message or task id.")],
    app: AppOption = None,
    as_json: JsonOption = False,
    broker: BrokerOption = None,
) -> None:
    """One dead letter, whole."""
    with one_line_errors():
        letters = _letters(find_app(app, broker), queue)
        found = letters.peek(1, Filter(message_ids=frozenset({id})))
        if not found:
            err.print(f"error: no dead letter {id} in {letters.name}", style="bold red", markup=False)
            raise typer.Exit(1)
        letter = found[0]
        text = _text(letters, letter)
        if as_json:
            print_json({**letter.plain(), "text": text})
            return
        rows = [
            ("message", letter.message_id),
            ("task", letter.task),
            ("task id", letter.task_id),
            ("reason", letter.reason),
            ("detail", letter.detail),
            ("from queue", letter.origin),
            ("sent (UTC)", moment(letter.sent_at)),
            ("buried (UTC)", moment(letter.buried_at)),
            ("received", f"{letter.delivery.receive_count} times"),
        ]
        for name, value in rows:
            out.print(f"{name:<13} {'' if value is None else value}", markup=False, soft_wrap=True)
        out.print("body", markup=False)
        out.print(_pretty(letter.body), markup=False, soft_wrap=True)
        if text != letter.body:
            out.print("text", markup=False)
            out.print(_pretty(text or ""), markup=False, soft_wrap=True)


@commands.command()
def redrive(
    queue: Queue,
    app: AppOption = None,
    ids: Ids = None,
    task: Task = None,
    reason: Reason = None,
    older_than: Older = None,
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, help="At most this many.")] = None,
    to: Annotated[
        str | None, typer.Option(help="Send to this queue instead of the one they came from.")
    ] = None,
    rate: Annotated[float | None, typer.Option(min=0.01, help="Messages per second.")] = None,
    edit: Annotated[
        str | None,
        typer.Option(metavar="JSON", help='Fields to change in each body, like \'{"task": "new.name"}\'.'),
    ] = None,
    broker: BrokerOption = None,
) -> None:
    """Send dead letters back to the queue they came from."""
    with one_line_errors():
        letters = _letters(find_app(app, broker), queue)
        changes = json.loads(edit) if edit else None
        if changes is not None and not isinstance(changes, dict):
            raise typer.BadParameter("--edit is a JSON object")

        def change(body: str) -> str:
            return json.dumps(
                {**json.loads(body), **(changes or {})}, ensure_ascii=False, separators=(",", ":")
            )

        def tell(letter: DeadLetter) -> None:
            out.print(f"{letter.message_id} -> {to or letter.origin}", markup=False)

        count = letters.redrive(
            _filter(task, reason, older_than, ids),
            limit=limit,
            to=to,
            rate=rate,
            edit=change if changes else None,
            progress=tell,
        )
        out.print(f"{count} sent back", markup=False)


@commands.command()
def purge(
    queue: Queue,
    app: AppOption = None,
    ids: Ids = None,
    task: Task = None,
    reason: Reason = None,
    older_than: Older = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    broker: BrokerOption = None,
) -> None:
    """Delete dead letters for good: those that fit, or all."""
    with one_line_errors():
        found = find_app(app, broker)
        letters = _letters(found, queue)
        chosen = _filter(task, reason, older_than, ids)
        some = chosen != Filter()
        if not yes:
            what = "those that fit" if some else f"all (about {found.broker.depth(letters.name).total})"
            typer.confirm(f"Delete dead letters of {letters.name} for good: {what}?", abort=True)
        count = letters.purge(chosen if some else None)
        out.print(f"{letters.name}: {'emptied' if count is None else f'{count} deleted'}", markup=False)


def _letters(app: CloudQ, queue: str) -> DeadLetters:
    return DeadLetters(app.broker, queue, claims=app.claims)


def _text(letters: DeadLetters, letter: DeadLetter) -> str | None:
    """The whole message, or None (and why, on stderr) when what it points to cannot be read."""
    try:
        return letters.text(letter)
    except MessageError as error:
        err.print(f"warning: {error}", style="yellow", markup=False)
        return None


def _short(text: str, width: int = 80) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"


def _pretty(body: str) -> str:
    try:
        return json.dumps(json.loads(body), indent=2, ensure_ascii=False)
    except (json.JSONDecodeError, RecursionError):
        return body
