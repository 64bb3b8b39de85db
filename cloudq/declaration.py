"""Declaration: what a task was declared with, as attributes, each checked; and what follows from them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from cloudq import callkey, plugins
from cloudq.arity import ANYTHING
from cloudq.callkey import KeySpec
from cloudq.errors import ImproperlyConfigured
from cloudq.rates import limit_of
from cloudq.retry import DEFAULT_MAX_RETRIES, DEFAULT_RETRY_DELAY, RetryPolicy


class Declaration:
    """The options of one task. ``cloudq.options.TaskOptions`` says what each means.

    None means "as the app's ``task_...`` setting says". Raises ImproperlyConfigured, naming the task.
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

    def declare(self, name: str, options: Mapping[str, Any]) -> None:
        """Take the options, and check those that stand for themselves."""
        self.name = name
        for option, value in options.items():
            if option in ("name", "base", "retry_kwargs"):
                continue
            setattr(self, option, tuple(value) if isinstance(value, list) else value)
        self._take_retry_kwargs(options.get("retry_kwargs") or {})
        self._check()

    def check_for(self, parameters: inspect.Signature) -> None:
        """Check those that depend on what the function takes (``parameters``)."""
        if self.batch is not None:
            self._check_batch(parameters)
            parameters = ANYTHING  # the function takes requests; calls may have any arguments
        self._check_limits(parameters)

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

    def _check_batch(self, parameters: inspect.Signature) -> None:
        if isinstance(self.batch, bool) or not isinstance(self.batch, int) or self.batch < 1:
            raise ImproperlyConfigured(f"task {self.name}: batch is 1 or more, got {self.batch!r}")
        if self.batch_wait is None:
            raise ImproperlyConfigured(f"task {self.name}: batch_wait is a number of seconds, got None")
        try:
            parameters.bind([])
        except TypeError as error:
            raise ImproperlyConfigured(
                f"task {self.name}: a batch task takes one argument, the list of requests ({error})"
            ) from None

    def _check_limits(self, parameters: inspect.Signature) -> None:
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
                    callkey.check_spec(option, spec, parameters, self.name)
                except ValueError as error:
                    raise ImproperlyConfigured(str(error)) from None

    def make_retry_policy(self) -> RetryPolicy:
        """When a failed run is tried again, as the options say."""
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
