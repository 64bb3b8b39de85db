"""The options of a task and of a call, typed once; and what to say of unknown ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, TypedDict

from cloudq.callkey import KeySpec


class CallOptions(TypedDict, total=False):
    """Options of ``apply_async``. Seconds where nothing else is said."""

    #: Run no earlier than this many seconds from now, or than this moment.
    countdown: float | None
    eta: datetime | float | None
    #: Do not run later than this many seconds from now, or than this moment.
    expires: datetime | float | None
    queue: str | None
    task_id: str | None
    #: Signatures to send after success, or after failure.
    link: Any
    link_error: Any
    headers: Mapping[str, Any] | None
    #: Try again while the broker is unavailable (default: ``task_publish_retry``).
    retry: bool | None
    serializer: str | None
    compression: str | None
    ignore_result: bool | None
    time_limit: float | None
    soft_time_limit: float | None
    #: 0 to 9 (highest): the sibling queue it goes to, see the setting task_queue_priorities.
    priority: int | None
    #: FIFO: messages of one group run in order. Standard queues: the tenant of SQS fair queues.
    group_id: str | None
    #: FIFO: a second message with this id within five minutes is dropped.
    dedup_id: str | None
    #: Calls of a task with the same key do their work once; the later ones get the first's result.
    idempotency_key: str | None
    root_id: str | None
    parent_id: str | None
    #: Remember the result among the running task's children (default true).
    add_to_parent: bool


CALL_OPTIONS: frozenset[str] = frozenset(CallOptions.__annotations__)

_NOT_HERE = {
    "routing_key": "use queue=",
    "exchange": "use queue=",
    "connection": "the app owns the connection",
    "producer": "the app owns the producer",
    "shadow": "log lines use the task's name",
    "retry_policy": "see the settings task_publish_retry and task_publish_retry_timeout",
}


def check_call_options(options: Iterable[str]) -> None:
    """Raise TypeError naming the first unknown option and the nearest right one."""
    for name in options:
        if name not in CALL_OPTIONS:
            raise TypeError(f"apply_async() has no option {name!r}{_hint(name, CALL_OPTIONS)}")


def _hint(name: str, known: Iterable[str]) -> str:
    if name in _NOT_HERE:
        return f": {_NOT_HERE[name]}"
    import difflib

    near = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else ""


class TaskOptions(TypedDict, total=False):
    """Options of ``@app.task``. Seconds where nothing else is said."""

    name: str
    base: type[Any]
    max_retries: int | None
    default_retry_delay: float
    autoretry_for: tuple[type[BaseException], ...] | list[type[BaseException]]
    dont_autoretry_for: tuple[type[BaseException], ...] | list[type[BaseException]]
    #: True: 1, 2, 4, ... seconds; a number is the factor.
    retry_backoff: bool | float
    retry_backoff_max: float
    retry_jitter: bool
    retry_kwargs: Mapping[str, Any]
    time_limit: float | None
    soft_time_limit: float | None
    ignore_result: bool
    store_errors_even_if_ignored: bool
    acks_late: bool
    reject_on_worker_lost: bool
    track_started: bool
    #: Errors that are expected: logged without a traceback.
    throws: tuple[type[BaseException], ...] | list[type[BaseException]]
    serializer: str
    #: How the task's results are written (default: the setting ``result_serializer``).
    result_serializer: str
    compression: str
    queue: str
    expires: float | None
    priority: int | None
    #: Check arguments against the signature when calling (default true).
    typing: bool
    #: A failure is also copied to the dead-letter queue.
    dead_letter: bool
    #: Parameters that logs, events, history and inspect show as ***; True: all of them, and the result.
    sensitive: bool | str | tuple[str, ...] | list[str]
    #: At most so many starts: "100/m" (s, m, h, d) or a number per second; 0 is no limit.
    rate_limit: str | float | None
    #: "worker": each worker may start so many; "global": all workers together (needs a results store).
    rate_limit_scope: str
    #: One limit for each value of this parameter (several, or a function of the arguments).
    rate_limit_key: KeySpec | None
    #: At most so many run at a time, over all workers (needs a results store).
    max_concurrency: int | None
    max_concurrency_key: KeySpec | None
    #: Do the work of each call (or of each idempotency_key) once, however often it is delivered or called.
    idempotent: bool
    #: Which calls are the same: a parameter's name, several, or a function of the arguments.
    idempotency_key: KeySpec | None
    #: Longest that a call waits for others to join it.
    batch_wait: float
    #: One call at a time: "until_start", "until_finish", or a number of seconds. The caller of a duplicate
    #: gets the first one's result.
    unique: str | float | None
    #: Which calls are duplicates: a parameter's name, several, or a function (default: all arguments).
    unique_on: KeySpec | None
    #: Longest that a call keeps others from being sent (default: the setting task_unique_expires).
    unique_expires: float | None
    #: Seconds that the outcome of a key is kept (default: the setting result_expires).
    idempotency_expires: float | None


TASK_OPTIONS: frozenset[str] = frozenset({*TaskOptions.__annotations__, "bind", "batch"})


def check_task_options(options: Iterable[str], name: str) -> None:
    """Raise TypeError naming the first unknown option and the nearest right one."""
    for each in options:
        if each not in TASK_OPTIONS:
            raise TypeError(f"task {name}: @app.task has no option {each!r}{_hint(each, TASK_OPTIONS)}")
