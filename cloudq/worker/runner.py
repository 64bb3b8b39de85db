"""What a pool runs: a delivery through the lifecycle of the worker's app."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any, Final

from cloudq import aio
from cloudq.app import CloudQ
from cloudq.brokers.base import Delivery
from cloudq.clock import Clock
from cloudq.loader import load_app
from cloudq.pools.base import RemoteWatch, RunnerSpec, Watch
from cloudq.runtime import batch
from cloudq.runtime.lifecycle import Lifecycle
from cloudq.runtime.verdict import Verdict
from cloudq.worker import logs
from cloudq.worker.batches import Batch
from cloudq.worker.feeding import feed_from_child

#: Seconds before a lease's first end from which on the parent is asked whether it was renewed.
SAFE: Final = 1.0


class WorkerRunner:
    """Runs deliveries in the worker's own process."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle

    def run(self, job: Delivery | Batch, watch: Watch) -> Verdict | list[Verdict]:
        """The whole lifecycle, in this thread."""
        if isinstance(job, Batch):
            return batch.run(self._lifecycle, job.deliveries, watch)
        return self._lifecycle.run(job, watch)

    async def arun(self, job: Delivery | Batch, watch: Watch) -> Verdict | list[Verdict]:
        """The whole lifecycle, on this event loop."""
        if isinstance(job, Batch):
            return await batch.arun(self._lifecycle, job.deliveries, watch, aio.to_thread)
        return await self._lifecycle.arun(job, watch, aio.to_thread)

    def close(self) -> None:
        """Nothing is the runner's own: the worker closes its app."""


class ChildRunner:
    """Runs deliveries in a child process, one at a time, whose leases the parent keeps."""

    def __init__(self, lifecycle: Lifecycle, app: CloudQ, clock: Clock) -> None:
        self._lifecycle = lifecycle
        self._app = app
        self._clock = clock
        self._watch: Any = None
        lifecycle.settler.holds = self._holds
        lifecycle.settler.eased = self._eased

    def run(self, job: Delivery | Batch, watch: Watch) -> Verdict | list[Verdict]:
        """The whole lifecycle."""
        self._watch = watch
        if isinstance(job, Batch):
            return batch.run(self._lifecycle, job.deliveries, watch)
        return self._lifecycle.run(job, watch)

    def close(self) -> None:
        """Give back what this process opened."""
        self._app.hooks.fire("child_exit", app=self._app, pid=os.getpid())
        self._app.close()

    def _holds(self, delivery: Delivery) -> bool:
        # what the parent has lost it says; whether it could renew in time, only who asks learns
        doubtful = self._clock.time() >= delivery.invisible_until - SAFE
        return not isinstance(self._watch, RemoteWatch) or self._watch.wanted(doubtful)

    def _eased(self, delivery: Delivery) -> None:
        if isinstance(self._watch, RemoteWatch):
            self._watch.eased()


def spec(
    app_path: str,
    hostname: str,
    overrides: Mapping[str, Any],
    level: int,
    shared: str,
    spool: str | None = None,
) -> RunnerSpec:
    """How a child process makes its runner. ``shared`` is the URL of a store of this worker's own, ``spool`` the
    folder for events. The last argument is what ``override`` takes, none so far.
    """
    return RunnerSpec(
        "cloudq.worker.runner:in_child", (app_path, hostname, dict(overrides), level, shared, spool, {})
    )


def override(app: CloudQ, options: Mapping[str, Mapping[str, Any]]) -> None:
    """Set options of tasks, by name, to other values than their code says. Unknown tasks are left out."""
    for name, values in options.items():
        task = app.tasks.get(name)
        for option, value in values.items() if task is not None else ():
            setattr(task, option, value)


def in_child(
    app_path: str,
    hostname: str,
    overrides: Mapping[str, Any],
    level: int,
    shared: str,
    spool: str | None,
    options: Mapping[str, Mapping[str, Any]],
) -> ChildRunner:
    """Load the app in a child process, with the settings of the parent, and its changes of tasks' options."""
    app = load_app(app_path, include=False)
    app.conf.update(overrides)
    app = load_app(app_path)
    override(app, options)
    if app.conf.worker_hijack_root_logger:
        logs.set_up(level, app.conf.worker_log_format)
    logging.getLogger("cloudq.worker").debug("child ready: %d tasks", len(app.tasks))
    lifecycle = app.lifecycle(hostname)
    lifecycle.admission.limits.keep_in(shared)
    lifecycle.settler.can_hold = True
    if spool is not None:
        feed_from_child(app, hostname, spool)
    app.hooks.fire("child_init", app=app)
    return ChildRunner(lifecycle, app, app.clock)
