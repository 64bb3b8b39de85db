"""Task: a function that can be called, and called somewhere else."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Iterable, Mapping
from datetime import datetime
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Generic,
    NoReturn,
    ParamSpec,
    TypeVar,
    Unpack,
    cast,
)

from cloudq import callkey, context, ids, plugins
from cloudq.arity import ANYTHING, Arity, parameters_of
from cloudq.callkey import KeySpec
from cloudq.canvas.sender import Sender
from cloudq.canvas.signature import Signature
from cloudq.context import Request
from cloudq.errors import ImproperlyConfigured, MaxRetriesExceededError, Replace, Retry
from cloudq.options import CallOptions, check_call_options, check_task_options
from cloudq.rates import limit_of
from cloudq.results.handle import AsyncResult, EagerResult
from cloudq.retry import DEFAULT_MAX_RETRIES, DEFAULT_RETRY_DELAY, RetryPolicy

if TYPE_CHECKING:  # most tasks are part of no workflow
    from cloudq.canvas.primitives import chunks, xmap, xstarmap

P = ParamSpec("P")
R = TypeVar("R")

_NOT_GIVEN: Any = object()


class Task(Generic[P, R]):
    """A registered task. Made by ``@app.task``; calling it just calls the function.

    Options are attributes of the instance; None means "as the app's ``task_...`` setting says". A
    subclass given as ``base=`` may set defaults for them, override the hooks below, and keep state
    of the process (a connection, a model).
    """

    name: str = ""
    bind: bool = False
    max_retries: int | None = DEFAULT_MAX_RETRIES
    default_retry_delay: float = DEFAULT_RETRY_DELAY
    autoretry_for: tuple[type[BaseException], ...] = ()
    dont_autoretry_for: tuple[type[BaseException], ...] = ()
    retry_backoff: bool | float = False
    retry_backoff_max: float = 600.0
    retry_jitter: bool = True
    time_limit: float | None = None
    soft_time_limit: float | None = None
    ignore_result: bool | None = None
    store_errors_even_if_ignored: bool | None = None
    acks_late: bool | None = None
    reject_on_worker_lost: bool | None = None
    track_started: bool | None = None
    throws: tuple[type[BaseException], ...] = ()
    serializer: str | None = None
    result_serializer: str | None = None
    compression: str | None = None
    queue: str | None = None
    expires: float | None = None
    priority: int | None = None
    typing: bool = True
    dead_letter: bool | None = None
    sensitive: bool | str | tuple[str, ...] | None = None
    rate_limit: str | float | None = None
    rate_limit_scope: str = "worker"
    rate_limit_key: KeySpec | None = None
    max_concurrency: int | None = None
    max_concurrency_key: KeySpec | None = None
    idempotent: bool = False
    idempotency_key: KeySpec | None = None
    idempotency_expires: float | None = None
    batch: int | None = None
    batch_wait: float = 1.0
    unique: str | float | None = None
    unique_on: KeySpec | None = None
    unique_expires: float | None = None

    #: Errors of the task's own that a subclass wants to name: Task.MaxRetriesExceededError, as in Celery.
    MaxRetriesExceededError: ClassVar[type[MaxRetriesExceededError]] = MaxRetriesExceededError

    def __init__(
        self, function: Callable[..., Any], sender: Sender, name: str, options: Mapping[str, Any]
    ) -> None:
        check_task_options(options, name)
        self._function = function
        self._sender = sender
        self.name = name
        for option, value in options.items():
            if option in ("name", "base", "retry_kwargs"):
                continue
            setattr(self, option, tuple(value) if isinstance(value, list) else value)
        self._take_retry_kwargs(options.get("retry_kwargs") or {})
        self._check()
        functools.update_wrapper(self, function)
        self.name = name
        self._entry = functools.partial(function, self) if self.bind else function
        self._signature = parameters_of(function, self.bind)
        if self.batch is not None:
            self._check_batch()
            self._signature = ANYTHING  # the function takes requests; calls may have any arguments
        self._arity = Arity(self._signature)
        self._check_limits()
        self.retry_policy = self._make_retry_policy()

    def _take_retry_kwargs(self, retry_kwargs: Mapping[str, Any]) -> None:
        for option, value in retry_kwargs.items():
            if option == "max_retries":
                self.max_retries = value
            elif option == "countdown":
                self.default_retry_delay = value
            else:
                raise TypeError(
                    f"task {self.name}: retry_kwargs takes max_retries and countdown, got {option!r}"
                )

    def _check(self) -> None:
        for option in ("autoretry_for", "dont_autoretry_for", "throws"):
            value = getattr(self, option)
            if not isinstance(value, tuple) or not all(
                isinstance(e, type) and issubclass(e, BaseException) for e in value
            ):
                raise ImproperlyConfigured(
                    f"task {self.name}: {option} is a tuple of exception classes, got {value!r}"
                )
        for option in (
            "time_limit",
            "soft_time_limit",
            "retry_backoff_max",
            "default_retry_delay",
            "idempotency_expires",
            "unique_expires",
            "batch_wait",
        ):
            value = getattr(self, option)
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, int | float) or value < 0
            ):
                raise ImproperlyConfigured(
                    f"task {self.name}: {option} is a number of seconds, got {value!r}"
                )
        if self.time_limit and self.soft_time_limit and self.soft_time_limit > self.time_limit:
            raise ImproperlyConfigured(
                f"task {self.name}: soft_time_limit ({self.soft_time_limit:g} s) is past time_limit ({self.time_limit:g} s)"
            )

        if self.result_serializer is not None:  # a wrong name must not wait for the first result
            plugins.load("serializers", self.result_serializer)

    def _check_batch(self) -> None:
        if isinstance(self.batch, bool) or not isinstance(self.batch, int) or self.batch < 1:
            raise ImproperlyConfigured(f"task {self.name}: batch is 1 or more, got {self.batch!r}")
        if self.batch_wait is None:
            raise ImproperlyConfigured(f"task {self.name}: batch_wait is a number of seconds, got None")
        try:
            self._signature.bind([])
        except TypeError as error:
            raise ImproperlyConfigured(
                f"task {self.name}: a batch task takes one argument, the list of requests ({error})"
            ) from None

    def _check_limits(self) -> None:
        most = self.priority
        if most is not None and (isinstance(most, bool) or not isinstance(most, int) or not 0 <= most <= 9):
            raise ImproperlyConfigured(f"task {self.name}: priority is 0 to 9 (highest), got {most!r}")
        try:
            limit_of(self.rate_limit)
        except ValueError as error:
            raise ImproperlyConfigured(f"task {self.name}: rate_limit: {error}") from None
        if self.rate_limit_scope not in ("worker", "global"):
            raise ImproperlyConfigured(
                f'task {self.name}: rate_limit_scope is "worker" or "global", got {self.rate_limit_scope!r}'
            )
        most = self.max_concurrency
        if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
            raise ImproperlyConfigured(f"task {self.name}: max_concurrency is 1 or more, got {most!r}")
        lock = self.unique
        seconds = isinstance(lock, int | float) and not isinstance(lock, bool) and lock > 0
        if lock is not None and lock not in ("until_start", "until_finish") and not seconds:
            raise ImproperlyConfigured(
                f'task {self.name}: unique is "until_start", "until_finish" or a number of seconds, got {lock!r}'
            )
        if self.unique_on is not None and lock is None:
            raise ImproperlyConfigured(f'task {self.name}: unique_on needs unique="until_finish", say')
        for option in ("rate_limit_key", "max_concurrency_key", "idempotency_key", "unique_on", "sensitive"):
            if (spec := getattr(self, option)) is not None and spec is not True:
                try:
                    callkey.check_spec(option, spec, self._signature, self.name)
                except ValueError as error:
                    raise ImproperlyConfigured(str(error)) from None

    def _make_retry_policy(self) -> RetryPolicy:
        backoff = self.retry_backoff
        return RetryPolicy(
            max_retries=self.max_retries,
            default_delay=self.default_retry_delay,
            autoretry_for=self.autoretry_for,
            dont_autoretry_for=self.dont_autoretry_for,
            backoff=None if backoff is False else (1.0 if backoff is True else float(backoff)),
            backoff_max=self.retry_backoff_max,
            jitter=self.retry_jitter,
        )

    # --- calling ------------------------------------------------------------------------------

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function, here and now, as if it were no task."""
        return cast("R", self._entry(*args, **kwargs))

    def run(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The function itself."""
        return cast("R", self._entry(*args, **kwargs))

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Send the call to its queue. Returns once the broker has it.

        Raises TypeError when the arguments do not fit, SerializationError when they cannot be
        written, MessageTooLarge, and OperationalErrors of the broker.
        """
        return self.apply_async(args, kwargs)

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Asyncio twin of ``delay``."""
        return await self.aapply_async(args, kwargs)

    def apply_async(
        self,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[R]:
        """Send the call with options: countdown, eta, expires, queue, task_id, link, ..."""
        args = tuple(args or ())
        self.check_arguments(args, kwargs)
        return self._sender.send_task(self.name, args, kwargs, **options)

    async def aapply_async(
        self,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[R]:
        """Asyncio twin of ``apply_async``."""
        args = tuple(args or ())
        self.check_arguments(args, kwargs)
        return await self._sender.asend_task(self.name, args, kwargs, **options)

    def apply(
        self,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> EagerResult[R]:
        """Run the call in this process, through the same lifecycle as a worker, retries and links included."""
        args = tuple(args or ())
        self.check_arguments(args, kwargs)
        return self._sender.apply_task(self.name, args, kwargs, **options)

    def check_arguments(self, args: Iterable[Any], kwargs: Mapping[str, Any] | None) -> None:
        """Raise TypeError unless the function could be called so (``typing=False`` skips it)."""
        if self.typing:
            try:
                self._arity.check(args, kwargs)
            except TypeError as error:
                raise TypeError(f"{self.name}() {error}") from None

    # --- signatures ---------------------------------------------------------------------------

    def s(self, *args: Any, **kwargs: Any) -> Signature:
        """A signature of this task; arguments may be partial."""
        return self.signature(args, kwargs)

    def si(self, *args: Any, **kwargs: Any) -> Signature:
        """An immutable signature: it takes no result of what runs before it."""
        return self.signature(args, kwargs, immutable=True)

    def signature(
        self,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        immutable: bool = False,
        **options: Any,
    ) -> Signature:
        """A signature with options."""
        return Signature(self.name, args, kwargs, options, immutable=immutable, sender=self._sender)

    # --- from inside --------------------------------------------------------------------------

    @property
    def request(self) -> Request:
        """What is known of the run this code is part of; an empty one when called directly."""
        found = context.current()
        return found if found is not None else Request(task=self.name)

    def retry(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        exc: BaseException | None = None,
        throw: bool = True,
        *,
        eta: datetime | None = None,
        countdown: float | None = None,
        max_retries: int | None = _NOT_GIVEN,
        **options: Any,
    ) -> NoReturn:
        """Run this task again later: ``raise self.retry(exc=error, countdown=10)``.

        Raises Retry, which the runtime understands; ``exc`` (or MaxRetriesExceededError) once
        ``max_retries`` is used up, and when the task was called directly.
        """
        request = self.request
        limit = self.max_retries if max_retries is _NOT_GIVEN else max_retries
        if request.called_directly:
            raise (
                exc
                if exc is not None
                else ImproperlyConfigured(f"{self.name} was called directly: nothing to retry")
            )
        if limit is not None and request.retries >= limit:
            if exc is not None:
                raise exc
            raise MaxRetriesExceededError(
                f"{self.name}[{request.id}] wanted retry {request.retries + 1}; max_retries is {limit}"
            )
        delay = countdown
        if delay is None and eta is None and self.retry_backoff is not False:
            delay = self.retry_policy.delay(request.retries)
        if delay is None and eta is None:
            delay = self.default_retry_delay
        raise Retry(
            exc=exc,
            delay=delay,
            eta=eta,
            task_args=None if args is None else tuple(args),
            task_kwargs=None if kwargs is None else dict(kwargs),
            options=options,
        ) from exc

    def map(self, it: Iterable[Any]) -> xmap:
        """A signature of one call that runs this task for each item."""
        from cloudq.canvas.primitives import xmap

        return xmap(self.s(), it)

    def starmap(self, it: Iterable[Any]) -> xstarmap:
        """As ``map``; each item is the list of positional arguments."""
        from cloudq.canvas.primitives import xstarmap

        return xstarmap(self.s(), it)

    def chunks(self, it: Iterable[Any], n: int) -> chunks:
        """A group of calls that each run this task for ``n`` items (lists of positional arguments)."""
        from cloudq.canvas.primitives import chunks

        return chunks(self.s(), it, n)

    def replace(self, sig: Mapping[str, Any]) -> NoReturn:
        """Let ``sig``, any signature, take this task's place: ``return self.replace(other.s(1))``.

        Its last call gets this task's id, so that whoever waits for this one gets its result, and
        what was to follow follows it. A group is gathered into a list. Raises Replace, which the
        runtime understands, and ImproperlyConfigured for what is no signature.
        """
        from cloudq.canvas.plan import as_one, replacement

        planned = as_one(replacement(sig))
        if self.request.called_directly:
            raise ImproperlyConfigured(f"{self.name} was called directly: there is no task to replace")
        raise Replace(planned)

    def add_to_chord(self, sig: Signature, lazy: bool = False) -> Any:
        """Add a call to the header that this task is a member of: the body gets its result as well,
        after those of the header's own members.

        It is sent once this run has ended (a retry adds its own). Returns its result; with ``lazy``
        the signature. Raises ValueError outside of a header, ImproperlyConfigured for a group.
        """
        request = self.request
        if request.chord is None or request.id is None:
            raise ValueError(f"{self.name} is not running as a member of a chord's header")
        if sig.get("subtask_type") == "group":
            raise ImproperlyConfigured("add the members of a group one by one: add_to_chord takes one result")
        from cloudq.canvas.plan import replacement

        for each in replacement(sig):
            check_call_options(each["options"])
        if "task_id" not in sig.options:
            sig = sig.clone(task_id=ids.derived_id(request.id, "added", len(request.added)))
        request.added.append(sig)
        return sig if lazy else self._sender.handle(sig.options["task_id"])

    def step(self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Do ``function(*args, **kwargs)`` once in the life of this task, whatever happens to its runs.

        Its value is recorded in the results store; when the task runs again, after a crash or for a
        retry, the recorded value is given and the function not called. Names are this run's own, each
        used once. A crash between the function's return and the record makes it run again. Called
        directly, outside of a run, it simply calls the function.
        """
        request = self.request
        if request.called_directly:
            return function(*args, **kwargs)

        def make() -> Any:
            value = function(*args, **kwargs)
            if inspect.iscoroutine(value):
                from cloudq import aio

                return aio.run(value)
            return value

        return self._sender.run_step(request, name, make)

    async def astep(self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Asyncio twin of ``step``, for ``async def`` tasks; ``function`` may be either kind."""
        from cloudq import aio

        return await aio.to_thread(lambda: self.step(name, function, *args, **kwargs))

    def update_state(self, task_id: str | None = None, state: str = "PROGRESS", meta: Any = None) -> None:
        """Record a custom state with ``meta`` (any value that can be serialized) for whoever polls."""
        request = self.request
        task_id = task_id or request.id
        if task_id is None:
            raise ImproperlyConfigured(f"{self.name} is not running: update_state needs a task_id")
        self._sender.update_state(task_id, state, meta, request.retries)

    # --- hooks, for subclasses ----------------------------------------------------------------

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Before the function is called. An error here is the task's failure."""

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        """After the function returned."""

    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """After the task failed for good."""

    def on_retry(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """When the task is to be tried again."""

    def after_return(
        self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any
    ) -> None:
        """After each run, whatever its end."""

    # --- for the runtime ----------------------------------------------------------------------

    @property
    def entry(self) -> Callable[..., Any]:
        """The function with ``self`` bound, as execution calls it."""
        return self._entry

    @property
    def is_idempotent(self) -> bool:
        """Is the work of a call done once, however often it is delivered?"""
        return self.idempotent or self.idempotency_key is not None

    @property
    def parameters(self) -> inspect.Signature:
        """What the function takes, ``self`` left out."""
        return self._signature

    @property
    def is_async(self) -> bool:
        """Is the function an ``async def``?"""
        return inspect.iscoroutinefunction(self._function)

    def __repr__(self) -> str:
        return f"<task {self.name}>"


class AsyncTask(Task[P, R]):
    """A task whose function is ``async def``; calling it gives the coroutine."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:  # type: ignore[override]
        return cast("Coroutine[Any, Any, R]", self._entry(*args, **kwargs))
