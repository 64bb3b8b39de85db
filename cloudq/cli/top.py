"""``cloudq top``: queues, workers, running and recent tasks, in the terminal (extra ``top``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from cloudq.app import CloudQ
from cloudq.cli.common import AppOption, BackendOption, BrokerOption, find_app, one_line_errors, queues_of
from cloudq.errors import MissingExtra
from cloudq.monitoring.overview import Overview, overview


def top(
    app: AppOption = None,
    interval: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks.")] = 2.0,
    broker: BrokerOption = None,
    result_backend: BackendOption = None,
) -> None:
    """A live view of queues, workers and tasks. Keys: p pauses or resumes the marked queue, q ends."""
    with one_line_errors():
        found = find_app(app, broker, result_backend)
        _ = found.control  # a missing store is said before the screen is taken
        try:
            from cloudq.cli.screen import Screen
        except ImportError as error:
            raise MissingExtra("cloudq top", "top") from error
        Screen(looking_at(found), found.control, interval).run()


def looking_at(app: CloudQ) -> Callable[[], Overview]:
    """What looks once."""
    queues = queues_of(app)
    return lambda: overview(
        broker=app.broker, control=app.control, history=app.history, clock=app.clock, queues=queues
    )


def queue_rows(view: Overview) -> list[tuple[Any, ...]]:
    """For the table of queues."""
    return [
        (
            each.name,
            "paused" if each.paused else "",
            *(("?" if each.error else "-") if n is None else n for n in _numbers(each)),
            each.workers,
            "" if each.oldest is None else f"{each.oldest:.0f} s",
        )
        for each in view.queues
    ]


def worker_rows(view: Overview) -> list[tuple[Any, ...]]:
    """For the table of workers."""
    return [
        (
            each.hostname,
            ("stopping" if each.stopping else "online") if each.alive(view.at) else "LOST",
            f"{max(0.0, view.at - each.at):.0f} s",
            f"{each.pool} {each.concurrency}",
            each.stats.get("active", ""),
            each.stats.get("acked", ""),
            ", ".join(each.queues),
        )
        for each in view.workers
    ]


def task_rows(view: Overview) -> list[tuple[Any, ...]]:
    """Running tasks, the longest first, then those that ended, the last first."""
    running = [
        (
            each.id,
            each.name,
            "LOST" if each.lost else "STARTED",
            f"{max(0.0, view.at - each.since):.1f}",
            each.worker,
            "",
        )
        for each in view.running
    ]
    ended = [
        (
            each.id,
            each.name,
            each.state,
            "" if each.runtime is None else f"{each.runtime:.3f}",
            each.worker,
            (each.exception or each.result or each.reason or "")[:80],
        )
        for each in view.recent
    ]
    return running + ended


def _numbers(queue: Any) -> tuple[Any, ...]:
    return queue.ready, queue.in_flight, queue.delayed, queue.dead
