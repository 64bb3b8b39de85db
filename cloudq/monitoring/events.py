"""Events: plain mappings with Celery's names and fields, made of what the hooks tell.

``type`` is one of TYPES, ``timestamp`` seconds since the epoch, ``uuid`` the task's id. Beyond Celery's
fields each event of a task also carries its ``name`` and ``queue``, so that it can be read alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from cloudq import states
from cloudq.clock import Clock
from cloudq.control.shown import shown, shown_call, shown_result
from cloudq.hooks import Hooks
from cloudq.serializers.peek import peek

Event = dict[str, Any]
Emit = Callable[[Event], None]

TASK_TYPES: Final = (
    "task-sent",
    "task-received",
    "task-started",
    "task-succeeded",
    "task-failed",
    "task-rejected",
    "task-revoked",
    "task-retried",
)
WORKER_TYPES: Final = ("worker-online", "worker-heartbeat", "worker-offline")
TYPES: Final = TASK_TYPES + WORKER_TYPES
#: The state that a task is in after an event.
STATES: Final = {
    "task-sent": states.PENDING,
    "task-received": states.RECEIVED,
    "task-started": states.STARTED,
    "task-succeeded": states.SUCCESS,
    "task-failed": states.FAILURE,
    "task-rejected": states.REJECTED,
    "task-revoked": states.REVOKED,
    "task-retried": states.RETRY,
}
#: Longest traceback in an event: its end says most.
TRACEBACK: Final = 8_000


class Recorder:
    """Makes events of an app's hooks, in the process where they fire, and hands them to ``emit``."""

    def __init__(
        self,
        hooks: Hooks,
        emit: Emit,
        hostname: str,
        clock: Clock,
        hidden: Sequence[str] = (),
        tasks: Callable[[str], Any] = lambda name: None,
    ) -> None:
        self._tasks = tasks

        self._hooks = hooks
        self._emit = emit
        self._hostname = hostname
        self._clock = clock
        self._hidden = tuple(hidden)
        self._number = 0
        self._points: dict[str, Callable[..., None]] = {
            "task_sent": self._sent,
            "task_received": self._received,
            "task_prerun": self._started,
            "task_succeeded": self._succeeded,
            "task_failed": self._failed,
            "task_retried": self._retried,
            "task_rejected": self._rejected,
            "task_revoked": self._revoked,
        }

    def attach(self) -> None:
        """Listen."""
        for point, listener in self._points.items():
            self._hooks.on(point, listener)

    def detach(self) -> None:
        """Listen no more."""
        for point, listener in self._points.items():
            self._hooks.off(point, listener)

    def worker(self, kind: str, **fields: Any) -> None:
        """An event of the worker itself."""
        about = {"sw_ident": "cloudq", "sw_sys": os.uname().sysname}
        self._put(kind, {**about, **fields})

    # --- the hooks ----------------------------------------------------------------------------

    def _sent(self, envelope: Any, queue: str, **_: Any) -> None:
        self._put("task-sent", {**self._call(envelope), "queue": queue, **_family(envelope)})

    def _received(self, delivery: Any, envelope: Any, **_: Any) -> None:
        more = {
            "queue": delivery.queue,
            "sent_at": envelope.sent_at,
            "redelivered": delivery.receive_count > 1,
        }
        self._put("task-received", {**self._call(envelope), **more, **_family(envelope)})

    def _started(self, request: Any, **_: Any) -> None:
        self._put("task-started", _run(request))

    def _succeeded(self, request: Any, outcome: Any, **_: Any) -> None:
        end = {
            "result": shown_result(self._tasks(request.task), outcome.value, self._hidden),
            "runtime": round(outcome.runtime, 6),
        }
        self._put("task-succeeded", {**self._whole(request), **end})

    def _failed(self, request: Any, outcome: Any, **_: Any) -> None:
        self._put("task-failed", {**self._whole(request), **_error(outcome)})

    def _retried(self, request: Any, outcome: Any, delay: float = 0.0, **_: Any) -> None:
        self._put("task-retried", {**self._whole(request), **_error(outcome), "delay": delay})

    def _rejected(self, delivery: Any, reason: str, detail: str, **_: Any) -> None:
        found = peek(delivery.body, delivery.message_id)
        about = {"uuid": found.id, "name": found.task, "queue": delivery.queue, "requeue": False}
        self._put("task-rejected", {**about, "reason": reason, "exception": detail})

    def _revoked(self, envelope: Any, reason: str, queue: str = "", **_: Any) -> None:
        why = {"terminated": reason == "terminated", "expired": reason == "expired", "signum": None}
        more = {**self._call(envelope), "queue": queue, **_family(envelope), "reason": reason}
        self._put("task-revoked", {**more, **why})

    # --- parts --------------------------------------------------------------------------------

    def _call(self, envelope: Any) -> Event:
        task = self._tasks(envelope.task)
        args, kwargs = shown_call(task, envelope.args, envelope.kwargs, self._hidden)
        return {
            "uuid": envelope.id,
            "name": envelope.task,
            "args": args,
            "kwargs": kwargs,
            "retries": envelope.retries,
            "eta": envelope.eta,
            "expires": envelope.expires,
        }

    def _whole(self, request: Any) -> Event:
        args, kwargs = shown_call(self._tasks(request.task), request.args, request.kwargs, self._hidden)
        return {
            **_run(request),
            "args": args,
            "kwargs": kwargs,
            "root_id": request.root_id,
            "parent_id": request.parent_id,
        }

    def _put(self, kind: str, fields: Event) -> None:
        self._number += 1
        self._emit(
            {
                "type": kind,
                **fields,
                "timestamp": self._clock.time(),
                "hostname": self._hostname,
                "pid": os.getpid(),
                "utcoffset": time.timezone // 3600,
                "clock": self._number,
            }
        )


def _family(envelope: Any) -> Event:
    return {"root_id": envelope.root_id or envelope.id, "parent_id": envelope.parent_id}


def _run(request: Any) -> Event:
    info = request.delivery_info
    return {
        "uuid": request.id,
        "name": request.task,
        "queue": info.get("queue", ""),
        "retries": request.retries,
    }


def _error(outcome: Any) -> Event:
    trace = outcome.traceback or ""
    return {
        "exception": shown(outcome.error),
        "traceback": trace if len(trace) <= TRACEBACK else "[...]\n" + trace[-TRACEBACK:],
        "runtime": round(outcome.runtime, 6),
    }
