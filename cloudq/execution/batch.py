"""Run a batch task's function once for several calls. Whatever it does, each call gets an Outcome of its own."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from cloudq import states
from cloudq.context import Request, running
from cloudq.execution.call import Target, _ends, _on_loop, _tell, acall, call, judge
from cloudq.execution.outcome import Outcome
from cloudq.pools.base import Watch


class BatchTarget(Target, Protocol):
    """A task that may take several calls at once."""

    @property
    def batch(self) -> int | None: ...


def call_batch(target: Target, whole: Request, requests: Sequence[Request], watch: Watch) -> list[Outcome]:
    """Run the function in this thread. ``whole`` is the current request meanwhile, with the limits."""
    started = time.perf_counter()
    hard, soft = whole.timelimit
    try:
        with running(whole):
            try:
                watch.begin(soft, hard)
                value = target.entry(list(requests))
                if inspect.iscoroutine(value):
                    from cloudq import aio

                    value = aio.run(value)
            finally:
                watch.end()
    except _ends() as error:
        return _all(target, requests, error, time.perf_counter() - started)
    return _each(target, requests, value, time.perf_counter() - started)


async def acall_batch(
    target: Target, whole: Request, requests: Sequence[Request], watch: Watch
) -> list[Outcome]:
    """As ``call_batch``, on this event loop."""
    started = time.perf_counter()
    hard, soft = whole.timelimit
    try:
        with running(whole):
            try:
                watch.begin(soft, hard)
                value = await _on_loop(target.entry, (list(requests),), {}, watch)
            finally:
                watch.end()
    except (Exception, SystemExit) as error:  # noqa: BLE001  whatever it does
        return _all(target, requests, error, time.perf_counter() - started)
    return _each(target, requests, value, time.perf_counter() - started)


def call_one(
    task: BatchTarget, request: Request, args: tuple[Any, ...], kwargs: Mapping[str, Any], watch: Watch
) -> Outcome:
    """Run one call, of a batch task or any other, in this thread."""
    if task.batch is None:
        return call(task, request, args, kwargs, watch)
    return call_batch(task, request, [request], watch)[0]


async def acall_one(
    task: BatchTarget, request: Request, args: tuple[Any, ...], kwargs: Mapping[str, Any], watch: Watch
) -> Outcome:
    """As ``call_one``, on this event loop."""
    if task.batch is None:
        return await acall(task, request, args, kwargs, watch)
    return (await acall_batch(task, request, [request], watch))[0]


def _all(target: Target, requests: Sequence[Request], error: BaseException, runtime: float) -> list[Outcome]:
    """The function raised: that is the end of each call (or its retry, if it has one left)."""
    return [_told(target, each, judge(target, each, error, runtime)) for each in requests]


def _each(target: Target, requests: Sequence[Request], value: Any, runtime: float) -> list[Outcome]:
    """One outcome per call from what the function returned: None, a list in their order, or a mapping by id."""
    if value is None:
        values: list[Any] = [None] * len(requests)
    elif isinstance(value, Mapping):
        values = [
            value[each.id]
            if each.id in value
            else LookupError(f"{target.name} returned nothing for {each.id}")
            for each in requests
        ]
    elif isinstance(value, list | tuple) and len(value) == len(requests):
        values = list(value)
    else:
        what = f"{len(value)} results" if isinstance(value, list | tuple) else f"a {type(value).__name__}"
        error = TypeError(
            f"{target.name} is a batch task: it returns None, a list with one result for each of its"
            f" {len(requests)} requests, or a mapping of request.id to result; it returned {what}"
        )
        return _all(target, requests, error, runtime)
    outcomes = []
    for request, item in zip(requests, values, strict=True):
        if isinstance(item, BaseException):
            outcome = judge(target, request, item, runtime)
        else:
            outcome = Outcome(states.SUCCESS, item, runtime=runtime)
        outcomes.append(_told(target, request, outcome))
    return outcomes


def _told(target: Target, request: Request, outcome: Outcome) -> Outcome:
    with running(request):
        _tell(target, request, request.args, request.kwargs, outcome)
    return outcome
