"""cloudq: Celery's way of working on Amazon SQS and Lambda, with no broker to run."""

from cloudq import states
from cloudq.app import CloudQ
from cloudq.canvas.signature import Signature
from cloudq.errors import Ignore, Reject, Retry, SoftTimeLimitExceeded
from cloudq.results.group import GroupResult, ResultSet
from cloudq.results.handle import AsyncResult
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
    "Task",
    "states",
]
__version__ = "0.1.0"
