"""What a run may know about itself: the request, made of the message and the task's options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from cloudq.brokers.base import Delivery
from cloudq.conf import Conf
from cloudq.context import Request
from cloudq.message import Envelope
from cloudq.task import Task

#: What a message says, by the request's name for it.
_SAID: Final[dict[str, Callable[[Envelope], Any]]] = {
    "task": lambda envelope: envelope.task,
    "kwargs": lambda envelope: envelope.kwargs,
    "retries": lambda envelope: envelope.retries,
    "eta": lambda envelope: envelope.eta,
    "expires": lambda envelope: envelope.expires,
    "root_id": lambda envelope: envelope.root_id or envelope.id,
    "parent_id": lambda envelope: envelope.parent_id,
    "group": lambda envelope: envelope.group.id if envelope.group else None,
    "group_index": lambda envelope: envelope.group.index if envelope.group else None,
    "chord": lambda envelope: envelope.chord,
    "chain": lambda envelope: envelope.chain,
    "callbacks": lambda envelope: envelope.link,
    "errbacks": lambda envelope: envelope.link_error,
    "headers": lambda envelope: envelope.headers,
    "origin": lambda envelope: envelope.origin,
}
#: What its delivery says.
_DELIVERED: Final[dict[str, Callable[[Delivery], Any]]] = {
    "delivery_info": lambda delivery: {
        "queue": delivery.queue,
        "message_id": delivery.message_id,
        "group_id": delivery.group_id,
        "redelivered": delivery.receive_count > 1,
    },
    "receive_count": lambda delivery: delivery.receive_count,
    "first_received_at": lambda delivery: delivery.first_received_at,
}


class RunRequest(Request):
    """The request of a run: what its message and delivery say is looked up when somebody asks for it.

    Most tasks never ask, and two dozen attributes take longer to set than the rest of a run.
    """

    __slots__ = ("_delivery", "_envelope")

    _delivery: Delivery
    _envelope: Envelope

    def __getattr__(self, name: str) -> Any:  # called for what is not set
        if (said := _SAID.get(name)) is not None:
            value = said(self._envelope)
        elif (delivered := _DELIVERED.get(name)) is not None:
            value = delivered(self._delivery)
        else:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        setattr(self, name, value)
        return value


def request_of(
    delivery: Delivery,
    envelope: Envelope,
    task: Task[..., Any],
    conf: Conf,
    records: bool,
    hostname: str,
    eager: bool,
    args: tuple[Any, ...],
) -> Request:
    """The request of a run that is about to begin. ``records``: its result is stored."""
    hard, soft = envelope.time_limit, envelope.soft_time_limit
    if hard is None and (hard := task.time_limit) is None:
        hard = conf.task_time_limit
    if soft is None and (soft := task.soft_time_limit) is None:
        soft = conf.task_soft_time_limit
    request = RunRequest.__new__(RunRequest)
    request._delivery = delivery
    request._envelope = envelope
    request.id = envelope.id
    request.args = args
    request.timelimit = (hard, soft)
    request.hostname = hostname
    request.ignore_result = not records
    request.is_eager = eager
    request.called_directly = False
    # these are added to, perhaps by several threads: there must be one of each from the beginning
    request.children = []
    request.steps = set()
    request.added = []
    return request


def request_of_batch(task: Task[..., Any], requests: Sequence[Request]) -> Request:
    """The request that is current while a batch task's function runs: nobody's in particular.

    The strictest limits of its members hold for the whole call.
    """
    hard = min((each.timelimit[0] for each in requests if each.timelimit[0] is not None), default=None)
    soft = min((each.timelimit[1] for each in requests if each.timelimit[1] is not None), default=None)
    return Request(
        task=task.name,
        timelimit=(hard, soft),
        hostname=requests[0].hostname,
        is_eager=requests[0].is_eager,
        called_directly=False,
    )
