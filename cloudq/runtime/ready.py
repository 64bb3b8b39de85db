"""A delivery that may run: everything execute and settle need to know."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from cloudq.backends.base import Version
from cloudq.brokers.base import Delivery
from cloudq.context import Request
from cloudq.message import Envelope
from cloudq.runtime.admission import NOTHING, Admitted
from cloudq.task import Task


class Ready(Struct, frozen=True):
    """``known`` is the version of the unfinished record that is there, if it was read.

    ``late``: its message is acknowledged when it has ended (``acks_late``). ``records``: results of this call are
    stored (it was not asked to ignore them). ``admitted`` is what the run holds: a claim on its key, a place of
    ``max_concurrency``. ``args`` are the positional arguments it is run with: those of the message, and what it
    only refers to.
    """

    delivery: Delivery
    envelope: Envelope
    task: Task[..., Any]
    request: Request
    late: bool
    known: Version | None = None
    records: bool = True
    admitted: Admitted = NOTHING
    args: tuple[Any, ...] = ()
