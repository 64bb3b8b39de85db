"""The arguments of a run that are not in its message: results of a group, and what an errback is told."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from cloudq import states
from cloudq.context import Request
from cloudq.errors import ChordError, ImproperlyConfigured
from cloudq.execution.outcome import Outcome
from cloudq.message import Envelope
from cloudq.results import failure
from cloudq.results.record import Record
from cloudq.results.store import ResultStore
from cloudq.runtime.verdict import Release
from cloudq.task import Task
from cloudq.workflows.members import CAUSE, records_of
from cloudq.workflows.words import ERRBACK, JOINED

#: Seconds until a call is tried again that came before the results it is to get.
_EARLY = 5.0


class Gatherer:
    """Completes a call's arguments from the results store."""

    def __init__(self, store: ResultStore | None) -> None:
        self._store = store

    def arguments(self, envelope: Envelope, task: Task[..., Any]) -> tuple[Any, ...] | Outcome | Release:
        """The positional arguments; or the failure of a call that is not to run; or "come again"."""
        joined = envelope.headers.get(JOINED)
        if isinstance(joined, Mapping):
            found = self._joined(joined)
            if not isinstance(found, list):
                return found
            return (found, *envelope.args) if joined.get("give", True) else envelope.args
        said = envelope.headers.get(ERRBACK)
        if isinstance(said, Mapping) and envelope.args and takes_error(task, envelope):
            return self._error(envelope, said)
        return envelope.args

    def _joined(self, joined: Mapping[str, Any]) -> list[Any] | Outcome | Release:
        if not joined["size"]:
            return []
        if self._store is None:
            raise ImproperlyConfigured(
                "the results of a chord's header are in a store, and this app has none"
            )
        values: list[Any] = []
        failed: Record | None = None
        blamed = ""
        for task_id, record in records_of(self._store, joined):
            if record is None or record.state == states.IGNORED:
                reason = "was ignored" if record is not None else "has no result any more"
                return _failure(ChordError(f"Dependency {task_id} {reason}"))
            if not record.final:
                return Release(_EARLY)
            if record.failed and failed is None:
                failed, blamed = record, str(record.extra.get(CAUSE, task_id))
            values.append(record.result)
        if failed is None:
            return values
        error = ChordError(f"Dependency {blamed} raised {failed.result!r}")
        if isinstance(failed.result, BaseException):
            error.__cause__ = failed.result
        return _failure(error)

    def _error(self, envelope: Envelope, said: Mapping[str, Any]) -> tuple[Any, ...]:
        """(request, exc, traceback), then its own arguments: Celery's newer errbacks."""
        failed_id, *own = envelope.args
        record = self._store.read(str(failed_id)) if self._store is not None else None
        error = record.result if record is not None else None
        if "error" in said:
            accept = failure.anywhere if self._store is None else self._store.accept
            error = failure.from_plain(said["error"], lambda value: value, accept)
        request = Request(
            id=str(failed_id),
            task=said.get("task"),
            args=tuple(record.args or ()) if record is not None else (),
            kwargs=(record.kwargs or {}) if record is not None else {},
            retries=record.retries if record is not None else 0,
            root_id=envelope.root_id,
            parent_id=record.parent_id if record is not None else None,
            called_directly=False,
        )
        return (request, error, record.traceback if record is not None else None, *own)


def _failure(error: ChordError) -> Outcome:
    return Outcome(states.FAILURE, error=error, traceback=f"ChordError: {error}")


def takes_error(task: Task[..., Any], envelope: Envelope) -> bool:
    """Does the errback take (request, exc, traceback), or only the failed task's id?

    As in Celery, it is its arity that says: three parameters or more that nothing was given for yet.
    """
    free = 0
    given = len(envelope.args) - 1  # the failed task's id comes first
    for parameter in inspect.signature(task.entry).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            return not task.bind  # Celery tells bound tasks the id; here only those that say *args
        positional = parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        if positional and parameter.name not in envelope.kwargs:
            free += 1
    return free - given >= 3
