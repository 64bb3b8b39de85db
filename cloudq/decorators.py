"""Typing only: what ``@app.task(...)`` is to a type checker."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar, overload

from cloudq.task import AsyncTask, Task

P = ParamSpec("P")
R = TypeVar("R")


class Decorator:
    """Typing only: what ``@app.task(...)`` is."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...
    def __call__(self, function: Any, /) -> Any:
        raise TypeError("never called")


class BoundDecorator:
    """Typing only: what ``@app.task(bind=True, ...)`` is."""

    @overload
    def __call__(
        self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /
    ) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], R], /) -> Task[P, R]: ...
    def __call__(self, function: Any, /) -> Any:
        raise TypeError("never called")


TaskT = TypeVar("TaskT", bound=Task[..., Any])


class BatchDecorator:
    """Typing only: what ``@app.task(batch=100)`` is. Calls may have any arguments: the function takes requests.

    ``batch`` is the most calls that one run handles; the function returns one result for each.
    """

    @overload
    def __call__(self, function: Callable[..., Coroutine[Any, Any, Any]], /) -> AsyncTask[..., Any]: ...
    @overload
    def __call__(self, function: Callable[..., Any], /) -> Task[..., Any]: ...
    def __call__(self, function: Any, /) -> Any:
        raise TypeError("never called")


class PeriodicDecorator:
    """Typing only: what ``@app.periodic(...)`` is, for a task and for a function that becomes one."""

    @overload
    def __call__(self, task: TaskT, /) -> TaskT: ...
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...
    def __call__(self, function: Any, /) -> Any:
        raise TypeError("never called")
