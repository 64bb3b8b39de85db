"""CloudQ: the app. A value that holds settings and tasks, and opens broker and backend when needed."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    ParamSpec,
    TypeVar,
    Unpack,
    overload,
)

from cloudq import states
from cloudq.calls import Calls, Handle
from cloudq.canvas.signature import Signature
from cloudq.canvas.signature import signature as make_signature
from cloudq.clock import SYSTEM_CLOCK, Clock
from cloudq.conf import Conf
from cloudq.decorators import BatchDecorator, BoundDecorator, Decorator, PeriodicDecorator
from cloudq.errors import ImproperlyConfigured
from cloudq.hooks import Hooks
from cloudq.opened import Opened
from cloudq.options import TaskOptions
from cloudq.registry import Registry
from cloudq.results.handle import AsyncResult
from cloudq.task import AsyncTask, Task
from cloudq.watched import Watched

if TYPE_CHECKING:  # loaded when they are needed, see cloudq/assembly.py
    from cloudq.backends.base import ResultBackend
    from cloudq.brokers.base import Broker
    from cloudq.brokers.claimcheck import ClaimCheck
    from cloudq.producer import Producer
    from cloudq.results import group
    from cloudq.results.poller import Poller
    from cloudq.results.record import Record
    from cloudq.results.store import ResultStore
    from cloudq.runtime.inline import Inline
    from cloudq.runtime.lifecycle import Lifecycle
    from cloudq.schedules.entry import Entry
    from cloudq.serializers.codec import Codec

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class CloudQ(Watched, Calls):
    """An application: ``app = CloudQ("shop", broker="sqs://", backend="dynamodb://cloudq-results")``.

    ``broker`` and ``backend`` are URLs or ready-made instances; without them the settings, the
    environment, and at last one SQLite file in ``.cloudq/`` are used. Other keyword arguments are
    settings (see ``docs/settings.md``). Nothing is opened before it is needed.
    """

    def __init__(
        self,
        main: str = "cloudq",
        *,
        broker: str | Broker | None = None,
        backend: str | ResultBackend | None = None,
        include: Iterable[str] = (),
        clock: Clock = SYSTEM_CLOCK,
        **settings: Any,
    ) -> None:
        self.main = main
        self.conf = Conf()
        self.conf.load_pyproject()
        self.conf.load_environment()
        self._given_broker = None if isinstance(broker, str) else broker
        self._given_backend = None if isinstance(backend, str) else backend
        if isinstance(broker, str):
            settings["broker_url"] = broker
        if isinstance(backend, str):
            settings["result_backend"] = backend
        if include:
            settings["include"] = list(include)
        self.conf.update(settings)
        self.clock = clock
        self.hooks = Hooks()
        self.tasks = Registry(self._builtin_task)
        self.periodic_entries: dict[str, Entry] = {}
        self._opened = Opened()

    # --- settings -----------------------------------------------------------------------------

    def config_from_object(self, source: Any, namespace: str | None = None) -> None:
        """Take settings from a module (or its name), a class or a mapping; see ``Conf.load_object``."""
        if isinstance(source, str):
            name = source.removeprefix("module:")
            try:
                source = import_module(name)
            except ImportError as error:
                raise ImproperlyConfigured(f"config_from_object({name!r}): {error}") from error
        self.conf.load_object(source, namespace)

    # --- tasks --------------------------------------------------------------------------------

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(self, *, batch: int, bind: bool = False, **options: Unpack[TaskOptions]) -> BatchDecorator: ...
    @overload
    def task(self, *, bind: Literal[True], **options: Unpack[TaskOptions]) -> BoundDecorator: ...
    @overload
    def task(self, *, bind: Literal[False] = False, **options: Unpack[TaskOptions]) -> Decorator: ...
    def task(self, function: Any = None, /, *, bind: bool = False, **options: Any) -> Any:  # type: ignore[misc]
        """Make a task of a function: ``@app.task`` or ``@app.task(max_retries=5, ...)``.

        With ``bind=True`` the function's first parameter is the task itself.
        """
        if bind:
            options["bind"] = True
        if function is not None:
            return self._make_task(function, options)
        return lambda given: self._make_task(given, options)

    def _make_task(self, function: Callable[..., Any], options: Mapping[str, Any]) -> Task[..., Any]:
        if not callable(function):
            raise ImproperlyConfigured(f"@app.task decorates a function, got {function!r}")
        name = options.get("name") or self.gen_task_name(function)
        kind: Any = options.get("base") or Task
        if not (isinstance(kind, type) and issubclass(kind, Task)):
            raise ImproperlyConfigured(f"task {name}: base is a subclass of cloudq.Task, got {kind!r}")
        if inspect.iscoroutinefunction(function) and not issubclass(kind, AsyncTask):
            kind = type(kind.__name__, (AsyncTask, kind), {}) if kind is not Task else AsyncTask
        task: Task[..., Any] = kind(function, self, name, options)
        self.tasks.add(task)
        return task

    def gen_task_name(self, function: Callable[..., Any]) -> str:
        """``module.function``; a script that was started directly counts as the module it is for others."""
        module = function.__module__
        if module == "__main__":
            main = sys.modules["__main__"]
            spec = getattr(main, "__spec__", None)
            file = getattr(main, "__file__", None)
            module = spec.name if spec is not None else _stem(file) if file else self.main
        return f"{module}.{function.__qualname__.replace('<locals>.', '')}"

    def autodiscover_tasks(self, packages: Iterable[str], related_name: str = "tasks") -> None:
        """Import ``package.tasks`` of every package that has one. Errors inside them are raised."""
        for package in packages:
            name = f"{package}.{related_name}"
            import_module(package)
            try:
                import_module(name)
            except ModuleNotFoundError as error:
                if error.name != name:  # the module is there, what it imports is not
                    raise

    def periodic(self, schedule: Any, /, **entry: Any) -> PeriodicDecorator:
        """Run a task by a schedule: ``@app.periodic(crontab(hour=7))`` on a function or above ``@app.task``.

        Further arguments: ``name``, ``args``, ``kwargs``, ``enabled``, ``catchup``, ``skip_if_running``, ``jitter``,
        ``timezone``, and options of ``apply_async``. See docs/schedules.md.
        """
        from cloudq import periodic

        decorator: PeriodicDecorator = periodic.decorate(self.periodic_entries, self.task, schedule, entry)
        return decorator

    def add_periodic_task(
        self, schedule: Any, sig: Any, args: Any = (), kwargs: Any = None, **entry: Any
    ) -> str:
        """As ``periodic``, for a signature: ``app.add_periodic_task(30.0, add.s(1, 2))``. Returns the entry's name."""
        from cloudq import periodic

        made = periodic.of_signature(schedule, sig, args, kwargs, entry)
        return periodic.declare(self.periodic_entries, made).name

    # --- calling; the rest is in cloudq/calls.py ----------------------------------------------

    def run_inline(self, run: Callable[[Inline], Any]) -> Any:
        """Have something run here and now, on a private queue and store; its result."""
        from cloudq import assembly

        parts = (self.tasks, self.codec, self.conf, self.hooks, self._task_defaults, self.clock)
        return assembly.run_inline(run, assembly.inline_of(*parts, self), self.conf, lambda: self.store)

    def signature(
        self,
        task: str | Mapping[str, Any],
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        immutable: bool = False,
    ) -> Signature:
        """A signature by name, or of the mapping that a signature's JSON form is."""
        return make_signature(task, args, kwargs, options, immutable=immutable, app=self)

    # --- results ------------------------------------------------------------------------------

    def AsyncResult(self, id: str) -> Handle:  # noqa: N802  Celery's name
        """The result of the task with this id, whoever sent it."""
        return self.handle(id)

    def handle(self, task_id: str) -> Handle:
        """As ``AsyncResult``."""
        return AsyncResult(task_id, self)

    def ResultSet(self, results: Iterable[Any] = ()) -> group.ResultSet[Any]:  # noqa: N802  Celery's name
        """Many results, to be asked and waited for together."""
        from cloudq.results import group

        return group.ResultSet(results, self)

    @property
    def GroupResult(self) -> group.Groups:  # noqa: N802  Celery's name
        """``app.GroupResult(id, results)`` makes one, ``app.GroupResult.restore(id)`` finds a saved one."""
        from cloudq.results import group

        return group.Groups(self)

    def node(self, plain: Any) -> Any:
        """The result that ``as_tuple`` was called on: of one task, or of a group."""
        from cloudq.results import group

        return group.result_from_tuple(plain, self)

    def read(self, task_id: str) -> Record | None:
        """The stored record of a task, or None."""
        return self.need_store().read(task_id)

    def forget(self, task_id: str) -> None:
        """Delete the stored record of a task."""
        self.need_store().forget(task_id)

    def update_state(self, task_id: str, state: str, meta: Any = None, retries: int = 0) -> None:
        """Record a custom state of an unfinished task. States only move forward."""
        if states.is_final(state):
            raise ValueError(f"update_state is for unfinished tasks; {state} is a final state")
        from cloudq.results.record import Record

        if self.store is not None:
            self.store.progress(Record(task_id, state, meta, retries=retries))

    @property
    def poller(self) -> Poller:
        """What every ``get()`` of this process waits with."""
        from cloudq import assembly

        store = self.need_store()
        return self._opened.get("poller", lambda: assembly.poller_of(store, lambda: self.broker, self.conf))

    def need_store(self) -> ResultStore:
        """Task records on the backend. Raises ImproperlyConfigured when results are disabled."""
        if self.store is None:
            raise ImproperlyConfigured("this app stores no results (result_backend is disabled://)")
        return self.store

    # --- what is opened -----------------------------------------------------------------------

    @property
    def broker(self) -> Broker:
        """The broker, opened at the first use in each process."""
        return self._opened.get("broker", self._open_broker)

    @property
    def backend(self) -> ResultBackend | None:
        """The results store, or None when results are disabled."""
        return self._opened.get("backend", self._open_backend)

    @property
    def store(self) -> ResultStore | None:
        """Task records on the backend."""
        return self._opened.get("store", self._open_store)

    @property
    def codec(self) -> Codec:
        """How messages and results are written."""
        return self._opened.get("codec", self._make_codec)

    @property
    def claims(self) -> ClaimCheck | None:
        """Where large messages are kept, or None when no place is set."""
        from cloudq import assembly

        return self._opened.get("claims", lambda: assembly.claims_of(self.conf, self.clock))

    @property
    def producer(self) -> Producer:
        """What publishes."""
        return self._opened.get("producer", self._make_producer)

    def lifecycle(self, hostname: str) -> Lifecycle:
        """What runs deliveries: for drivers (worker, Lambda). One per process is enough."""
        from cloudq import assembly

        return assembly.lifecycle_of(
            registry=self.tasks,
            codec=self.codec,
            store=self.store,
            producer=self.producer,
            broker=lambda: self.broker,
            conf=self.conf,
            hooks=self.hooks,
            clock=self.clock,
            hostname=hostname,
            claims=self.claims,
        )

    def close(self) -> None:
        """Give back connections. The app may be used again and then opens new ones."""
        self._opened.close()
        self.conf.unseal()

    @contextmanager
    def using(
        self,
        *,
        broker: str | Broker | None = None,
        backend: str | ResultBackend | None = None,
        clock: Clock | None = None,
        **settings: Any,
    ) -> Iterator[CloudQ]:
        """For the block, the same app and tasks with another broker, store, clock or settings.

        Meant for tests of code that has one app at module level. What the block opened is closed
        at its end, and everything is as it was before. Blocks of one app end in reverse order.
        """
        before = (self._given_broker, self._given_backend, self.clock, self._opened, self.conf.snapshot())
        mine = self._opened = Opened()
        try:
            self.conf.unseal()
            self.clock = clock or self.clock
            for name, given in (("broker", broker), ("backend", backend)):
                setting = "broker_url" if name == "broker" else "result_backend"
                if isinstance(given, str):
                    settings[setting] = given
                if given is not None:
                    setattr(self, f"_given_{name}", None if isinstance(given, str) else given)
            self.conf.update(settings)
            yield self
        finally:
            if self._opened is not mine:
                raise RuntimeError(f"using() of {self!r} ends before a using() block that began later")
            mine.close()
            self._given_broker, self._given_backend, self.clock, self._opened, conf = before
            self.conf.restore(conf)

    def __enter__(self) -> CloudQ:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_broker(self) -> Broker:
        from cloudq import assembly

        return self._given_broker or assembly.broker_of(self.conf, self.clock)

    def _open_backend(self) -> ResultBackend | None:
        from cloudq import assembly

        backend = self._given_backend or assembly.backend_of(self.conf, self.clock)
        return assembly.sealed(backend, self.conf, self.clock)

    def _open_store(self) -> ResultStore | None:
        from cloudq import assembly

        return assembly.store_of(self.backend, self.codec, self.conf, self.clock, self.tasks)

    def _make_codec(self) -> Codec:
        from cloudq import assembly

        return assembly.codec_of(self.conf, self.clock, self.claims)

    def _make_producer(self) -> Producer:
        from cloudq import assembly

        parts = (self.codec, self.conf, self.hooks, self._task_defaults, self.clock, self.claims)
        return assembly.producer_of(lambda: self.broker, *parts)

    def __repr__(self) -> str:
        return f"<CloudQ {self.main}>"


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]
