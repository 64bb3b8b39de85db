"""``cloudq demo``: a real worker process, a thousand tasks, retries, a failure; nothing is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cloudq.app import CloudQ
from cloudq.cli.common import one_line_errors, out, print_table
from cloudq.cli.localserver import ENGINES, environment_for, furnish, serving
from cloudq.errors import OperationalError
from cloudq.results.handle import AsyncResult
from cloudq.results.record import Record

QUEUE = "demo"


def demo(
    tasks: Annotated[
        int, typer.Option("--tasks", "-n", min=1, max=100_000, help="How many tasks to send.")
    ] = 1000,
    aws_local: Annotated[
        bool, typer.Option("--aws-local", help="On a local SQS and DynamoDB instead of SQLite.")
    ] = False,
    engine: Annotated[str, typer.Option(help=f"With --aws-local: {' or '.join(ENGINES)}.")] = "moto",
    pool: Annotated[str, typer.Option("--pool", "-P", help="The worker's pool.")] = "threads",
    concurrency: Annotated[int, typer.Option("--concurrency", "-c", min=1)] = 8,
) -> None:
    """Send tasks to a real worker process and show what comes back."""
    with (
        one_line_errors(),
        tempfile.TemporaryDirectory(prefix="cloudq-demo-") as folder,
        _place(folder, aws_local, engine) as environment,
    ):
        os.environ.update(environment)
        from cloudq.demo.tasks import app  # reads the environment that was just set

        if aws_local:
            furnish(app, [QUEUE])
        out.print(f"broker   {app.broker.url}", markup=False, soft_wrap=True)
        out.print(f"results  {app.backend.url if app.backend else ''}", markup=False, soft_wrap=True)
        with _worker(Path(folder), pool, concurrency) as log:
            code = _show(app, tasks, log)
        app.close()
    raise typer.Exit(code)


@contextmanager
def _place(folder: str, aws_local: bool, engine: str) -> Iterator[dict[str, str]]:
    """Where the demo runs: a SQLite file in a temporary folder, or a local AWS."""
    common = {"CLOUDQ_TASK_DEFAULT_QUEUE": QUEUE}
    if not aws_local:
        url = f"sqlite:///{folder}/demo.db"  # folder is absolute: four slashes
        yield {**common, "CLOUDQ_BROKER_URL": url, "CLOUDQ_RESULT_BACKEND": url}
        return
    out.print(f"starting {engine} on 127.0.0.1 ...")
    with serving(engine) as url:
        yield {**common, **environment_for(url)}


@contextmanager
def _worker(folder: Path, pool: str, concurrency: int) -> Iterator[Path]:
    """A worker process of its own; stopped with SIGTERM, and its last words shown if it fails."""
    log = folder / "worker.log"
    command = [sys.executable, "-m", "cloudq", "worker", "-A", "cloudq.demo.tasks:app"]
    command += ["--queue", QUEUE, "--pool", pool, "--concurrency", str(concurrency)]
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True)
    out.print(
        f"worker   process {process.pid}: {' '.join(['cloudq', *command[3:]])}\n",
        markup=False,
        soft_wrap=True,
    )
    try:
        yield log
        if process.poll() is not None:
            raise OperationalError(
                f"the worker ended early, exit code {process.returncode}:\n{log.read_text()[-2000:]}"
            )
    finally:
        process.terminate()
        try:
            process.wait(20.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _show(app: CloudQ, count: int, log: Path) -> int:
    from cloudq.demo.tasks import add, charge, fetch_rate

    started = time.monotonic()
    sent = app.send_many(add.s(n, n) for n in range(count))
    sent += [fetch_rate.delay(each) for each in ("USD", "JPY", "CHF")]
    failing = charge.delay(4711, 250_000)
    sent.append(failing)
    published = time.monotonic() - started
    records = _follow(app, sent, log)
    seconds = time.monotonic() - started
    _print_failure(failing)
    _print_retries(sent[-4:-1])
    states = Counter(each.state for each in records.values())
    retried = sum(each.retries for each in records.values())
    wrong = [r.id for n, r in enumerate(sent[:count]) if records[r.id].result != 2 * n]
    rows = [
        ("tasks sent", f"{len(sent)} in {published:.2f} s"),
        *((f"ended in {state}", number) for state, number in sorted(states.items())),
        ("retries", retried),
        ("wrong results", len(wrong)),
        ("all done after", f"{seconds:.2f} s ({len(sent) / seconds:.0f} tasks/s)"),
    ]
    out.print()
    print_table(("summary", ""), rows)
    expected = {"SUCCESS": len(sent) - 1, "FAILURE": 1}
    return 0 if not wrong and dict(states) == expected else 1


def _follow(app: CloudQ, sent: list[AsyncResult[Any]], log: Path) -> dict[str, Record]:
    """A progress bar until every record is final."""
    store = app.store
    assert store is not None
    records: dict[str, Record] = {}
    waiting = [each.id for each in sent]
    last_news = time.monotonic()
    columns = (TextColumn("tasks done"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=out) as bar:
        job = bar.add_task("", total=len(sent))
        while waiting:
            found = {k: r for k, r in store.read_many(waiting[:1000]).items() if r.final}
            records.update(found)
            waiting = [each for each in waiting if each not in found]
            bar.update(job, completed=len(records))
            if found:
                last_news = time.monotonic()
            elif time.monotonic() - last_news > 60:
                raise OperationalError(
                    f"no task has ended for 60 seconds; the worker says:\n{log.read_text()[-2000:]}"
                )
            else:
                time.sleep(0.05)
                waiting = waiting[1000:] + waiting[:1000]
    return records


def _print_failure(failing: AsyncResult[Any]) -> None:
    out.print("\none task failed, as it should; what its caller sees:", style="bold")
    error = failing.result
    out.print(f"  {type(error).__name__}: {error}", style="red", markup=False)
    for line in (failing.traceback or "").rstrip().splitlines():
        out.print(f"    {line}", style="dim", markup=False, soft_wrap=True)


def _print_retries(retried: list[AsyncResult[Any]]) -> None:
    out.print("\nthree asked a service that answers at the third try:", style="bold")
    for each in retried:
        out.print(f"  {each.get(timeout=5)}", markup=False)
