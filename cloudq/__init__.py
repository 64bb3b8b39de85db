"""cloudq: Celery's way of working on Amazon SQS and Lambda, with no broker to run."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloudq import states
    from cloudq.app import CloudQ
    from cloudq.canvas.primitives import chain, chord, chunks, group, xmap, xstarmap
    from cloudq.canvas.signature import Signature, maybe_signature, signature
    from cloudq.canvas.stamping import StampingVisitor
    from cloudq.errors import Ignore, Reject, Retry, SoftTimeLimitExceeded
    from cloudq.results.group import GroupResult, ResultSet
    from cloudq.results.handle import AsyncResult
    from cloudq.schedules.crontab import crontab
    from cloudq.schedules.interval import schedule
    from cloudq.schedules.solar import solar
    from cloudq.task import Task

__all__ = [
    "AsyncResult",
    "CloudQ",
    "GroupResult",
    "Ignore",
    "Reject",
    "ResultSet",
    "Retry",
    "Signature",
    "SoftTimeLimitExceeded",
    "StampingVisitor",
    "Task",
    "chain",
    "chord",
    "chunks",
    "crontab",
    "group",
    "maybe_signature",
    "schedule",
    "signature",
    "solar",
    "states",
    "xmap",
    "xstarmap",
]
__version__ = "0.1.0"

_HOMES = {
    "AsyncResult": "results.handle",
    "CloudQ": "app",
    "GroupResult": "results.group",
    "Ignore": "errors",
    "Reject": "errors",
    "ResultSet": "results.group",
    "Retry": "errors",
    "Signature": "canvas.signature",
    "StampingVisitor": "canvas.stamping",
    "SoftTimeLimitExceeded": "errors",
    "Task": "task",
    "chain": "canvas.primitives",
    "chord": "canvas.primitives",
    "chunks": "canvas.primitives",
    "group": "canvas.primitives",
    "maybe_signature": "canvas.signature",
    "signature": "canvas.signature",
    "xmap": "canvas.primitives",
    "xstarmap": "canvas.primitives",
    "crontab": "schedules.crontab",
    "schedule": "schedules.interval",
    "solar": "schedules.solar",
}


def __getattr__(name: str) -> Any:
    # Late: pytest imports the package for its plugin wherever cloudq is installed, used or not.
    from importlib import import_module

    if name in ("errors", "states"):
        return import_module(f"cloudq.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"cloudq.{_HOMES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
