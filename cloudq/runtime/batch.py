"""Batch tasks: the lifecycle of several deliveries that one call of the function handles.

Each is prepared, settled and given its verdict on its own; only the run is common.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cloudq.brokers.base import Delivery
from cloudq.context import Request
from cloudq.execution.batch import acall_batch, acall_one, call_batch, call_one
from cloudq.execution.outcome import Outcome
from cloudq.pools.base import Watch
from cloudq.runtime.lifecycle import Lifecycle
from cloudq.runtime.ready import Ready
from cloudq.runtime.request import request_of_batch
from cloudq.runtime.verdict import Verdict
from cloudq.task import Task


@dataclass(frozen=True, slots=True)
class _Member:
    """One delivery that may run. ``early``: it is acknowledged already."""

    ready: Ready
    early: bool


#: By the position of the delivery.
_Members = dict[int, _Member]


def run(lifecycle: Lifecycle, deliveries: Sequence[Delivery], watch: Watch) -> list[Verdict]:
    """From deliveries (of one batch task) to verdicts, in this thread. Never raises (as ``Lifecycle.run``)."""
    verdicts, members = _prepare(lifecycle, deliveries)
    outcomes: dict[int, Outcome] = {}
    try:
        for some in _by_task(members):
            task, requests = _about(some)
            if task.batch is None:
                ready = next(iter(some.values())).ready
                found = [call_one(task, ready.request, ready.args, ready.envelope.kwargs, watch)]
            else:
                found = call_batch(task, request_of_batch(task, requests), requests, watch)
            outcomes.update(zip(some, found, strict=True))
    except BaseException:  # a pool's own hard limit
        _leave(lifecycle, members)
        raise
    _settle(lifecycle, members, outcomes, verdicts, watch)
    return [verdicts[position] for position in range(len(deliveries))]


async def arun(
    lifecycle: Lifecycle, deliveries: Sequence[Delivery], watch: Watch, bridge: Callable[..., Any]
) -> list[Verdict]:
    """As ``run``, on an event loop; ``bridge(f, *args)`` awaits blocking work in a thread."""
    verdicts, members = await bridge(_prepare, lifecycle, deliveries)
    outcomes: dict[int, Outcome] = {}
    try:
        for some in _by_task(members):
            task, requests = _about(some)
            if task.batch is None:
                ready = next(iter(some.values())).ready
                found = [await acall_one(task, ready.request, ready.args, ready.envelope.kwargs, watch)]
            else:
                found = await acall_batch(task, request_of_batch(task, requests), requests, watch)
            outcomes.update(zip(some, found, strict=True))
    except BaseException:
        await bridge(_leave, lifecycle, members)
        raise
    await bridge(_settle, lifecycle, members, outcomes, verdicts, watch)
    return [verdicts[position] for position in range(len(deliveries))]


def _prepare(lifecycle: Lifecycle, deliveries: Sequence[Delivery]) -> tuple[dict[int, Verdict], _Members]:
    verdicts: dict[int, Verdict] = {}
    members: _Members = {}
    for position, delivery in enumerate(deliveries):
        try:
            ready = lifecycle.prepare(delivery)
            if not isinstance(ready, Ready):
                verdicts[position] = ready
                continue
            try:
                members[position] = _Member(ready, lifecycle.ack_early(ready))
                lifecycle.before(ready)
            except BaseException:
                members.pop(position, None)
                lifecycle.leave(ready)
                raise
        except Exception as error:  # noqa: BLE001  one that cannot be prepared does not concern the others
            verdicts[position] = lifecycle.stumbled(delivery, error)
    return verdicts, members


def _by_task(members: _Members) -> list[_Members]:
    """Members that run together. They were collected by what their messages say at a glance, which nobody had
    verified: what turns out to be another task runs as that."""
    found: dict[str, _Members] = {}
    for position, member in members.items():
        task = member.ready.task
        key = task.name if task.batch is not None else f"{task.name}/{position}"
        found.setdefault(key, {})[position] = member
    return list(found.values())


def _about(members: _Members) -> tuple[Task[..., Any], list[Request]]:
    requests = [each.ready.request for each in members.values()]
    return next(iter(members.values())).ready.task, requests


def _settle(
    lifecycle: Lifecycle,
    members: _Members,
    outcomes: Mapping[int, Outcome],
    verdicts: dict[int, Verdict],
    watch: Watch,
) -> None:
    for position, member in members.items():
        ready, outcome = member.ready, outcomes[position]
        try:
            verdict = lifecycle.settled(ready, lifecycle.after(ready, outcome), watch)
            verdicts[position] = lifecycle.closed(verdict, member.early)
        except Exception as error:  # noqa: BLE001  nor does one that cannot be settled
            verdicts[position] = lifecycle.stumbled(ready.delivery, error)
        finally:
            lifecycle.leave(ready)
            lifecycle.over(ready.delivery)


def _leave(lifecycle: Lifecycle, members: _Members) -> None:
    for each in members.values():
        lifecycle.leave(each.ready)
        lifecycle.over(each.ready.delivery)
