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

from cloudq import context, ids
from cloudq.arity import ANYTHING, Arity, parameters_of
from cloudq.canvas.sender import Sender
from cloudq.canvas.signature import Signature
from cloudq.context import Request
from cloudq.declaration import Declaration
from cloudq.errors import ImproperlyConfigured, MaxRetriesExceededError, Replace, Retry
from cloudq.options import CallOptions, check_call_options, check_task_options
from cloudq.results.handle import AsyncResult, EagerResult

if TYPE_CHECKING:  # most tasks are part of no workflow
    from cloudq.canvas.primitives import chunks, xmap, xstarmap

P = ParamSpec("P")
R = TypeVar("R")

_NOT_GIVEN: Any = object()


class Task(Declaration, Generic[P, R]):
    """A registered task. Made by ``@app.task``; calling it just calls the function.

    Options are attributes of the instance; None means "as the app's ``task_...`` setting says". A
    subclass given as ``base=`` may set defaults for them, override the hooks below, and keep state
    of the process (a connection, a model).
    """

    #: Errors of the task's own that a subclass wants to name: Task.MaxRetriesExceededError, as in Celery.
    MaxRetriesExceededError: ClassVar[type[MaxRetriesExceededError]] = MaxRetriesExceededError

    def __init__(
        self, function: Callable[..., Any], sender: Sender, name: str, options: Mapping[str, Any]
    ) -> None:
        check_task_options(options, name)
        self._function = function
        self._sender = sender
        self.declare(name, options)
        functools.update_wrapper(self, function)
        self.name = name  # the wrapping took the function's attributes, a name perhaps among them
        self._entry = functools.partial(function, self) if self.bind else function
        parameters = parameters_of(function, self.bind)
        self.check_for(parameters)
        self._signature = parameters if self.batch is None else ANYTHING
        self._arity = Arity(self._signature)
        self.retry_policy = self.make_retry_policy()

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
