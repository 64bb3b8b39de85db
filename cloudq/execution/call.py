"""Run one task function, once. Whatever it does, the answer is an Outcome.

Only what stops the whole thread or process passes through: KeyboardInterrupt and a pool's own
hard-limit exception.
"""

from __future__ import annotations

import inspect
import logging
import sys
import time
from collections.abc import Callable, Coroutine, Generator, Mapping
from functools import cache, partial
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Protocol

from cloudq import states
from cloudq.context import Request, enter, leave, running
from cloudq.errors import Ignore, Reject, Retry
from cloudq.execution.outcome import ExceptionInfo, Outcome, format_traceback
from cloudq.pools.base import Watch
from cloudq.retry import RetryPolicy

if TYPE_CHECKING:  # asyncio costs 30 ms of a cold start, and plain tasks do without
    from cloudq import aio

logger = logging.getLogger("cloudq.task")


class Target(Protocol):
    """What execution needs of a task."""

    @property
    def name(self) -> str: ...
    @property
    def retry_policy(self) -> RetryPolicy: ...
    @property
    def entry(self) -> Callable[..., Any]:
        """The function to call with the message's arguments (``self`` already bound)."""
        ...

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None: ...
    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None: ...
    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None: ...
    def on_retry(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None: ...
    def after_return(
        self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any
    ) -> None: ...


class NoWatch:
    """A Watch that watches nothing: no limits here."""

    def begin(self, soft: float | None, hard: float | None) -> None:
        pass

    def end(self) -> None:
        pass


def call(
    target: Target, request: Request, args: tuple[Any, ...], kwargs: Mapping[str, Any], watch: Watch
) -> Outcome:
    """Run the task in this thread; ``async def`` tasks run on the process's event loop thread."""
    started = time.perf_counter()
    hard, soft = request.timelimit
    token = enter(request)
    try:
        try:
            try:
                watch.begin(soft, hard)  # from here on a limit may strike at any instruction
                target.before_start(request.id or "", args, kwargs)
                value = target.entry(*args, **kwargs)
                if isinstance(value, CoroutineType):
                    from cloudq import aio

                    value = aio.run(value)
            finally:
                watch.end()
        except _ends() as error:  # whatever it does
            outcome = judge(target, request, error, time.perf_counter() - started)
        else:
            outcome = Outcome(states.SUCCESS, value, runtime=time.perf_counter() - started)
        _tell(target, request, args, kwargs, outcome)
    finally:
        leave(token)
    return outcome


async def acall(
    target: Target, request: Request, args: tuple[Any, ...], kwargs: Mapping[str, Any], watch: Watch
) -> Outcome:
    """Run the task on this event loop; plain functions go to a thread."""
    started = time.perf_counter()
    hard, soft = request.timelimit
    with running(request):
        try:
            try:
                watch.begin(soft, hard)
                target.before_start(request.id or "", args, kwargs)
                value = await _on_loop(target.entry, args, kwargs, watch)
            finally:
                watch.end()
        except (Exception, SystemExit) as error:  # noqa: BLE001  whatever it does
            outcome = judge(target, request, error, time.perf_counter() - started)
        else:
            outcome = Outcome(states.SUCCESS, value, runtime=time.perf_counter() - started)
        _tell(target, request, args, kwargs, outcome)
    return outcome


async def _on_loop(
    entry: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], watch: Watch
) -> Any:
    take = getattr(watch, "take", None)
    value = (
        entry(*args, **kwargs)
        if inspect.iscoroutinefunction(entry)
        else await _user_threads().run(entry, *args, **kwargs)
    )
    if not inspect.iscoroutine(value):
        return value
    return await (value if take is None else Interruptible(value, take))


@cache
def _user_threads() -> aio.ThreadBridge:
    """For plain functions in an asyncio pool: threads of their own, so that they never starve what settles."""
    from cloudq import aio

    return aio.ThreadBridge(100, "cloudq-task")


def _ends() -> tuple[type[BaseException], ...]:
    """What ends only the task: with asyncio's CancelledError, once somebody has loaded asyncio to raise it."""
    asyncio = sys.modules.get("asyncio")
    return (Exception, SystemExit) if asyncio is None else (Exception, SystemExit, asyncio.CancelledError)


class Interruptible:
    """Awaits a coroutine; a cancellation that ``take()`` explains reaches it as that exception instead."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], take: Callable[[], BaseException | None]) -> None:
        self._coroutine = coroutine
        self._take = take

    def __await__(self) -> Generator[Any, Any, Any]:
        import asyncio

        resume: Callable[[], Any] = partial(self._coroutine.send, None)
        while True:
            try:
                awaited = resume()
            except StopIteration as stop:
                return stop.value
            try:
                yield awaited
            except BaseException as error:  # noqa: BLE001  all of it is passed on
                meant = self._take() if isinstance(error, asyncio.CancelledError) else None
                resume = partial(self._coroutine.throw, meant if meant is not None else error)
            else:
                resume = partial(self._coroutine.send, None)


def judge(target: Target, request: Request, error: BaseException, runtime: float = 0.0) -> Outcome:
    """What an exception means: a retry, a wish of the task, or a failure."""
    trace = format_traceback(error, skip=1)
    if isinstance(error, Retry):
        delay = error.delay if error.delay is not None else target.retry_policy.default_delay
        return Outcome(
            states.RETRY, error=error.exc or error, traceback=trace, retry=error, delay=delay, runtime=runtime
        )
    if isinstance(error, Ignore):
        return Outcome(states.IGNORED, error=error, runtime=runtime)
    if isinstance(error, Reject):
        return Outcome(states.REJECTED, error=error, traceback=trace, requeue=error.requeue, runtime=runtime)
    policy = target.retry_policy
    exhausted = policy.max_retries is not None and request.retries >= policy.max_retries
    if policy.wants(error) and not exhausted:
        delay = policy.delay(request.retries)
        retry = Retry(exc=error, delay=delay)
        return Outcome(states.RETRY, error=error, traceback=trace, retry=retry, delay=delay, runtime=runtime)
    return Outcome(states.FAILURE, error=error, traceback=trace, runtime=runtime)


def _tell(target: Target, request: Request, args: Any, kwargs: Any, outcome: Outcome) -> None:
    """Call the task's own hooks. What they raise is logged: the task has already ended."""
    task_id = request.id or ""
    try:
        if outcome.state == states.SUCCESS:
            target.on_success(outcome.value, task_id, args, kwargs)
            target.after_return(outcome.state, outcome.value, task_id, args, kwargs, None)
        elif outcome.error is not None and outcome.state in (states.FAILURE, states.RETRY):
            einfo = ExceptionInfo(outcome.error, outcome.traceback or "")
            hook = target.on_failure if outcome.state == states.FAILURE else target.on_retry
            hook(outcome.error, task_id, args, kwargs, einfo)
            target.after_return(outcome.state, outcome.error, task_id, args, kwargs, einfo)
    except Exception:
        logger.exception("a hook of task %s[%s] failed", target.name, task_id)
