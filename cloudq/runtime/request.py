"""What a run may know about itself: the request, made of the message and the task's options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cloudq.brokers.base import Delivery
from cloudq.conf import Conf
from cloudq.context import Request
from cloudq.message import Envelope
from cloudq.task import Task


def request_of(
    delivery: Delivery,
    envelope: Envelope,
    task: Task[..., Any],
    conf: Conf,
    records: bool,
    hostname: str,
    eager: bool,
) -> Request:
    """The request of a run that is about to begin. ``records``: its result is stored."""
    hard, soft = envelope.time_limit, envelope.soft_time_limit
    if hard is None:
        hard = conf.task_time_limit if task.time_limit is None else task.time_limit
    if soft is None:
        soft = conf.task_soft_time_limit if task.soft_time_limit is None else task.soft_time_limit
    group = envelope.group
    return Request(
        id=envelope.id,
        task=envelope.task,
        args=envelope.args,
        kwargs=envelope.kwargs,
        retries=envelope.retries,
        eta=envelope.eta,
        expires=envelope.expires,
        root_id=envelope.root_id or envelope.id,
        parent_id=envelope.parent_id,
        group=group.id if group else None,
        group_index=group.index if group else None,
        chord=envelope.chord,
        chain=envelope.chain,
        callbacks=envelope.link,
        errbacks=envelope.link_error,
        headers=envelope.headers,
        timelimit=(hard, soft),
        origin=envelope.origin,
        hostname=hostname,
        delivery_info={
            "queue": delivery.queue,
            "message_id": delivery.message_id,
            "group_id": delivery.group_id,
            "redelivered": delivery.receive_count > 1,
        },
        receive_count=delivery.receive_count,
        first_received_at=delivery.first_received_at,
        ignore_result=not records,
        is_eager=eager,
        called_directly=False,
    )


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
