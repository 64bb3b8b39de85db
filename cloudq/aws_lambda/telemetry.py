"""One JSON line per task on stdout, which CloudWatch reads as a log record and as metrics.

Format: "Specification: Embedded metric format" in the Amazon CloudWatch User Guide.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any, Final

from cloudq import states
from cloudq.aws_lambda.job import Job
from cloudq.runtime.verdict import Ack, Bury, Release

NAMESPACE: Final = "cloudq"

#: Metric and unit; in the record of a task that ran, and of one that did not.
_RAN: Final = (("Duration", "Milliseconds"), ("QueueLatency", "Milliseconds"))
_COUNTS: Final = ("Succeeded", "Failed", "Retried", "Buried", "Released", "Unstarted")


class Telemetry:
    """Writes the lines of one function. ``emf=False``: without the metrics' part."""

    def __init__(self, function: str, emf: bool = True) -> None:
        self._function = function
        self._emf = emf

    def report(self, jobs: list[Job], request_id: str | None) -> None:
        """All of an invocation, at its end, in one write."""
        now = time.time()
        lines = [json.dumps(self._line(job, request_id, now), default=str) for job in jobs]
        if lines:
            sys.stdout.write("\n".join(lines) + "\n")
            sys.stdout.flush()

    def _line(self, job: Job, request_id: str | None, now: float) -> dict[str, Any]:
        delivery, peeked = job.delivery, job.peeked
        outcome = job.outcome
        line: dict[str, Any] = {
            "message": f"task {peeked.task or '?'}[{peeked.id}] {_said(job)}",
            "level": "ERROR" if _is_bad(job) else "INFO",
            "function": self._function,
            "aws_request_id": request_id,
            "task": peeked.task or "?",
            "task_id": peeked.id,
            "queue": delivery.queue,
            "message_id": delivery.message_id,
            "attempt": peeked.retries + 1,
            "receive_count": delivery.receive_count,
            "outcome": _outcome(job),
            "verdict": _verdict(job),
        }
        latency = max(0.0, delivery.first_received_at - delivery.sent_at)
        line["QueueLatency"] = round(1000 * latency, 1)
        if outcome is not None:
            line["Duration"] = round(1000 * outcome.runtime, 3)
            if outcome.error is not None:
                line["error"] = f"{type(outcome.error).__name__}: {_text(outcome.error)}"[:1000]
        if isinstance(job.todo, Release) and job.unstarted is None:
            line["returns_in"] = job.todo.delay
        if isinstance(job.verdict, Bury):
            line["reason"], line["detail"] = job.verdict.reason, job.detail[:1000]
        if job.unstarted:
            line["reason"] = job.unstarted
        counted = _counted(job)
        if counted is not None:
            line[counted] = 1
        if self._emf:
            line["_aws"] = self._directive(line, counted, now)
        return line

    def _directive(self, line: dict[str, Any], counted: str | None, now: float) -> dict[str, Any]:
        metrics = [{"Name": name, "Unit": unit} for name, unit in _RAN if name in line]
        if counted is not None:
            metrics.append({"Name": counted, "Unit": "Count"})
        return {
            "Timestamp": int(1000 * now),
            "CloudWatchMetrics": [
                {"Namespace": NAMESPACE, "Dimensions": [["queue"], ["queue", "task"]], "Metrics": metrics}
            ],
        }


def _text(error: BaseException) -> str:
    """Its message. Never raises, whatever the error's own ``__str__`` does."""
    try:
        return str(error)
    except Exception as other:  # noqa: BLE001  somebody else's __str__
        return f"<its __str__ raised {type(other).__name__}>"


def _outcome(job: Job) -> str:
    outcome = job.outcome
    if outcome is not None:
        return outcome.state
    if job.unstarted is not None:
        return "UNSTARTED"
    return "LATE" if job.verdict is None else "NOT_RUN"


def _verdict(job: Job) -> str:
    return type(job.verdict).__name__.lower() if job.verdict is not None else "none"


def _said(job: Job) -> str:
    outcome = _outcome(job)
    if job.unstarted is not None:
        return f"given back unstarted: {job.unstarted}"
    if outcome == "LATE":
        return "did not end in the invocation's time; it comes again"
    if isinstance(job.verdict, Bury):
        done = "buried" if isinstance(job.todo, Ack) else "could not be buried and comes again"
        return f"{done}: {job.verdict.reason}"
    if outcome == "NOT_RUN":
        return (
            "not run: expired, revoked, not due yet, or had ended before"
            if isinstance(job.verdict, Ack)
            else "given back"
        )
    return outcome.lower()


def _is_bad(job: Job) -> bool:
    return _counted(job) in ("Failed", "Buried") or _outcome(job) == "LATE"


def _counted(job: Job) -> str | None:
    """The counter that this run adds one to."""
    if job.unstarted is not None:
        return "Unstarted"
    if isinstance(job.verdict, Bury):
        return "Buried"
    outcome = _outcome(job)
    found = {states.SUCCESS: "Succeeded", states.RETRY: "Retried"}.get(outcome)
    if found is None and outcome == states.FAILURE:
        found = "Released" if isinstance(job.todo, Release) else "Failed"
    return found or (None if isinstance(job.todo, Ack) else "Released")
