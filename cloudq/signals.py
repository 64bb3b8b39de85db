"""Celery's signals: ``@task_failure.connect`` and the like, for every app of this process.

Receivers are called with keyword arguments as in Celery, and must accept ``**kwargs``; ``sender`` comes
first. What they raise is logged. They run where it happens: those of tasks in the process that runs the
task (a child of a prefork worker), the others in the worker's own.

``app.hooks.on`` is the same thing for one app, without globals.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any, Final

from cloudq import states
from cloudq.hooks import EVERYWHERE, RUNS, RUNS_EVERYWHERE

Receiver = Callable[..., Any]

__all__ = [
    "after_setup_logger",
    "after_task_publish",
    "before_task_publish",
    "heartbeat_sent",
    "setup_logging",
    "task_failure",
    "task_postrun",
    "task_prerun",
    "task_received",
    "task_rejected",
    "task_retry",
    "task_revoked",
    "task_success",
    "task_unknown",
    "worker_init",
    "worker_process_init",
    "worker_process_shutdown",
    "worker_ready",
    "worker_shutdown",
    "worker_shutting_down",
]

#: Signals of one point share its list of listeners: one change at a time.
_changing: Final = threading.Lock()


class Signal:
    """A moment one can connect to. ``translate`` makes Celery's arguments of a hook point's."""

    def __init__(
        self,
        name: str,
        point: str | None = None,
        translate: Callable[..., dict[str, Any] | None] = lambda **data: data,
    ) -> None:
        """Without a ``point`` it is sent by whoever has it."""
        self.name = name
        self._point = point
        self._translate = translate
        self._receivers: list[tuple[Hashable, Any, Receiver]] = []

    def connect(
        self,
        receiver: Receiver | None = None,
        sender: Any = None,
        weak: bool = False,
        dispatch_uid: Hashable = None,
    ) -> Any:
        """Call ``receiver`` from now on; a decorator too: ``@connect`` or ``@connect(sender=task)``.

        ``sender`` narrows it to one task (or its name). The same receiver, or ``dispatch_uid``, is
        connected once. ``weak`` is accepted and ignored: receivers stay until ``disconnect``.
        """
        if receiver is None:
            return lambda given: self.connect(given, sender, weak, dispatch_uid)
        if not callable(receiver):  # Celery's @signal.connect("sender") puts the sender here
            raise TypeError(f"{self.name}.connect takes a function, got {receiver!r}: use sender=")
        uid = dispatch_uid if dispatch_uid is not None else receiver
        with _changing:
            if not any((each[0], each[1]) == (uid, sender) for each in self._receivers):
                self._receivers = [*self._receivers, (uid, sender, receiver)]
            if self._point is not None:
                listeners = EVERYWHERE.setdefault(self._point, [])
                if self._listen not in listeners:
                    listeners.append(self._listen)
                if self._point in RUNS:
                    RUNS_EVERYWHERE[self._point] = listeners
        return receiver

    def disconnect(
        self, receiver: Receiver | None = None, sender: Any = None, dispatch_uid: Hashable = None
    ) -> bool:
        """Call it no more. False: it was not connected."""
        uid = dispatch_uid if dispatch_uid is not None else receiver
        with _changing:
            left = [each for each in self._receivers if (each[0], each[1]) != (uid, sender)]
            found, self._receivers = len(left) < len(self._receivers), left
            if self._point is not None and not left and self._listen in EVERYWHERE.get(self._point, ()):
                listeners = EVERYWHERE[self._point]
                listeners.remove(self._listen)
                if not listeners:  # nothing there is what tells runs that nobody listens
                    del EVERYWHERE[self._point]
                    RUNS_EVERYWHERE.pop(self._point, None)
        return found

    def has_listeners(self, sender: Any = None) -> bool:
        """Is anybody connected?"""
        return bool(self._receivers)

    @property
    def receivers(self) -> list[Receiver]:
        """Who is connected."""
        return [each[2] for each in self._receivers]

    def send(self, sender: Any = None, **named: Any) -> list[tuple[Receiver, Any]]:
        """Call the receivers; (receiver, answer or the exception that it raised) of each."""
        answers: list[tuple[Receiver, Any]] = []
        for _, wanted, receiver in self._receivers:
            if wanted is not None and wanted != sender and wanted != getattr(sender, "name", None):
                continue
            try:
                answers.append((receiver, receiver(sender=sender, signal=self, **named)))
            except Exception as error:
                import logging  # late: only errors need it

                logging.getLogger("cloudq.signals").exception(
                    "a receiver of %s failed: %r", self.name, receiver
                )
                answers.append((receiver, error))
        return answers

    def _listen(self, **data: Any) -> None:
        named = self._translate(**data)
        if named is not None:
            self.send(**named)

    def __repr__(self) -> str:
        return f"<Signal {self.name}>"


# --- what a hook's arguments are called in Celery -------------------------------------------------


def _publish(envelope: Any, queue: str, **_: Any) -> dict[str, Any]:
    headers = {"id": envelope.id, "task": envelope.task, "retries": envelope.retries, "eta": envelope.eta}
    headers |= {"root_id": envelope.root_id, "parent_id": envelope.parent_id, **envelope.headers}
    return {
        "sender": envelope.task,
        "body": (list(envelope.args), dict(envelope.kwargs), {}),
        "headers": headers,
        "exchange": "",
        "routing_key": queue,
    }


def _run(task: Any, request: Any, **_: Any) -> dict[str, Any]:
    args, kwargs = list(request.args), dict(request.kwargs)
    return {"sender": task, "task_id": request.id, "task": task, "args": args, "kwargs": kwargs}


def _postrun(task: Any, request: Any, outcome: Any, **_: Any) -> dict[str, Any]:
    value = outcome.value if outcome.state == states.SUCCESS else outcome.error
    return {**_run(task, request), "retval": value, "state": outcome.state}


def _success(task: Any, outcome: Any, **_: Any) -> dict[str, Any]:
    return {"sender": task, "result": outcome.value}


def _failure(task: Any, request: Any, outcome: Any, **_: Any) -> dict[str, Any]:
    from cloudq.execution.outcome import ExceptionInfo

    named = _run(task, request)
    del named["task"]
    error = outcome.error
    trace = getattr(error, "__traceback__", None)
    einfo = ExceptionInfo(error, outcome.traceback or "")
    return {**named, "exception": error, "traceback": trace, "einfo": einfo}


def _retry(task: Any, request: Any, outcome: Any, **_: Any) -> dict[str, Any]:
    from cloudq.execution.outcome import ExceptionInfo

    einfo = ExceptionInfo(outcome.error, outcome.traceback or "")
    return {"sender": task, "request": request, "reason": outcome.error, "einfo": einfo}


def _received(envelope: Any, **_: Any) -> dict[str, Any]:
    return {"sender": envelope.task, "request": envelope}


def _revoked(envelope: Any, reason: str, **_: Any) -> dict[str, Any]:
    return {
        "sender": envelope.task,
        "request": envelope,
        "terminated": reason == "terminated",
        "signum": None,
        "expired": reason == "expired",
    }


def _rejected(delivery: Any, reason: str, detail: str, **_: Any) -> dict[str, Any] | None:
    return (
        None
        if reason == "unknown_task"
        else {"sender": None, "message": delivery, "exc": f"{reason}: {detail}"}
    )


def _unknown(delivery: Any, reason: str, detail: str, **_: Any) -> dict[str, Any] | None:
    if reason != "unknown_task":
        return None
    from cloudq.serializers.peek import peek

    found = peek(delivery.body, delivery.message_id)
    return {"sender": None, "name": found.task, "id": found.id, "message": delivery, "exc": detail}


def _worker(worker: Any, **_: Any) -> dict[str, Any]:
    return {"sender": worker}


def _shutting_down(worker: Any, signal: str, **_: Any) -> dict[str, Any]:
    return {"sender": worker.hostname, "sig": signal, "how": "Warm", "exitcode": 0}


def _process(app: Any, **_: Any) -> dict[str, Any]:
    return {"sender": None, "app": app}


def _process_end(app: Any, pid: int, **_: Any) -> dict[str, Any]:
    return {"sender": None, "app": app, "pid": pid, "exitcode": 0}


before_task_publish: Final = Signal("before_task_publish", "before_publish", _publish)
after_task_publish: Final = Signal("after_task_publish", "task_sent", _publish)
task_received: Final = Signal("task_received", "task_received", _received)
task_prerun: Final = Signal("task_prerun", "task_prerun", _run)
task_postrun: Final = Signal("task_postrun", "task_postrun", _postrun)
task_success: Final = Signal("task_success", "task_succeeded", _success)
task_failure: Final = Signal("task_failure", "task_failed", _failure)
task_retry: Final = Signal("task_retry", "task_retried", _retry)
task_revoked: Final = Signal("task_revoked", "task_revoked", _revoked)
task_rejected: Final = Signal("task_rejected", "task_rejected", _rejected)
task_unknown: Final = Signal("task_unknown", "task_rejected", _unknown)
worker_init: Final = Signal("worker_init", "worker_init", _worker)
worker_ready: Final = Signal("worker_ready", "worker_ready", _worker)
worker_shutting_down: Final = Signal("worker_shutting_down", "worker_stopping", _shutting_down)
worker_shutdown: Final = Signal("worker_shutdown", "worker_stopped", _worker)
worker_process_init: Final = Signal("worker_process_init", "child_init", _process)
worker_process_shutdown: Final = Signal("worker_process_shutdown", "child_exit", _process_end)
heartbeat_sent: Final = Signal("heartbeat_sent", "worker_heartbeat", _worker)
#: Sent before a worker sets up logging, which it then leaves to the receiver; and after it has.
setup_logging: Final = Signal("setup_logging")
after_setup_logger: Final = Signal("after_setup_logger")
