"""How one run of a task ended."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Any

from msgspec import Struct

from cloudq import states
from cloudq.errors import Retry


class Outcome(Struct, frozen=True):
    """The end of one run; a value that travels from execute to settle.

    ``state`` is SUCCESS, FAILURE, RETRY, IGNORED, REJECTED or REVOKED. ``value`` is the task's return value
    (SUCCESS only), ``error`` what was raised, ``traceback`` its text. ``delay`` is seconds until
    the next try (RETRY only). ``runtime`` is seconds spent in user code.
    """

    state: str
    value: Any = None
    error: BaseException | None = None
    traceback: str | None = None
    retry: Retry | None = None
    delay: float = 0.0
    requeue: bool = False
    runtime: float = 0.0

    @property
    def succeeded(self) -> bool:
        return self.state == states.SUCCESS


@dataclass(frozen=True, slots=True)
class ExceptionInfo:
    """What the ``on_failure`` and ``on_retry`` hooks get as ``einfo`` (Celery's name)."""

    exception: BaseException
    traceback: str

    @property
    def type(self) -> type[BaseException]:
        return type(self.exception)

    def __str__(self) -> str:
        return self.traceback


def format_traceback(error: BaseException, *, skip: int = 0) -> str:
    """The traceback as text, without the first ``skip`` frames (the runtime's own)."""
    trace = error.__traceback__
    for _ in range(skip):
        if trace is None or trace.tb_next is None:
            break
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace))
