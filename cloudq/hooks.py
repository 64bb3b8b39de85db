"""Named points in a task's and a worker's life where other code may listen.

A listener is called with keyword arguments and must accept ``**_`` for what later releases add.
What a listener raises is logged and goes no further: nobody's metrics may lose somebody's task.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

Listener = Callable[..., Any]

#: Every point, and what its listeners are given.
POINTS: Final[dict[str, str]] = {
    "before_publish": "envelope, queue: about to be sent",
    "task_sent": "envelope, queue: the broker has it",
    "publish_failed": "envelope, queue, error: the broker did not take it",
    "task_received": "delivery, envelope: decoded by a worker",
    "task_prerun": "task, request: user code starts now",
    "task_postrun": "task, request, outcome: user code has ended",
    "task_succeeded": "task, request, outcome: recorded as SUCCESS",
    "task_failed": "task, request, outcome: recorded as FAILURE",
    "task_retried": "task, request, outcome, delay: published again, delay in seconds",
    "task_rejected": "delivery, reason, detail: buried in the dead-letter queue",
    "task_revoked": "envelope, reason, queue: not run (expired, revoked), or stopped (terminated)",
    "task_settled": "delivery: its run is over, recorded, and what follows was sent",
    "lease_lost": "delivery: its visibility ran out while it was held",
    "worker_init": "worker: before the pool starts",
    "worker_ready": "worker: consuming",
    "worker_stopping": "worker, signal: no new messages are taken",
    "worker_stopped": "worker: nothing runs any more",
    "worker_heartbeat": "worker: a sign of life was written",
    "child_init": "app: in a new process of a prefork worker, before its first task",
    "child_exit": "app, pid: in such a process, after its last task",
}

#: What every run that succeeds comes by.
RUNS: Final = frozenset({"task_received", "task_prerun", "task_postrun", "task_succeeded", "task_settled"})

#: Listeners of all apps of this process, by point: ``cloudq.signals`` puts its own here.
EVERYWHERE: dict[str, list[Listener]] = {}
#: Those of them that listen to runs.
RUNS_EVERYWHERE: dict[str, list[Listener]] = {}


class Hooks:
    """The listeners of one app."""

    def __init__(self) -> None:
        self._listeners: dict[str, list[Listener]] = {}
        #: Those of runs. While this and ``RUNS_EVERYWHERE`` are empty a run need not ask for each of its points.
        self.of_runs: dict[str, list[Listener]] = {}
        #: Where a worker's events go besides what its settings name (``cloudq.monitoring.feed.Sink``).
        self.sinks: list[Any] = []

    def on(self, point: str, listener: Listener | None = None) -> Any:
        """Add a listener: ``hooks.on("task_failed", f)``, or as a decorator."""
        if point not in POINTS:
            raise ValueError(f"no hook point is called {point!r}; known: {', '.join(POINTS)}")
        if listener is None:
            return lambda function: self.on(point, function)
        found = self._listeners.setdefault(point, [])
        found.append(listener)
        if point in RUNS:
            self.of_runs[point] = found
        return listener

    def off(self, point: str, listener: Listener) -> None:
        """Remove a listener; unknown ones are no error."""
        found = self._listeners.get(point, [])
        if listener in found:
            found.remove(listener)
        if not found:
            self.of_runs.pop(point, None)
            if found and point in RUNS:  # somebody came just then
                self.of_runs[point] = found

    def wants(self, point: str) -> bool:
        """Does anybody listen? Lets hot paths skip building arguments."""
        return bool(self._listeners.get(point) or EVERYWHERE.get(point))

    def fire(self, point: str, **data: Any) -> None:
        """Call the listeners in order."""
        for listener in (*self._listeners.get(point, ()), *EVERYWHERE.get(point, ())):
            try:
                listener(**data)
            except Exception:
                import logging  # late: only errors need it

                logging.getLogger("cloudq.hooks").exception("a listener of %s failed: %r", point, listener)
