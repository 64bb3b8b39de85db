"""Which queue a task goes to, from its name (``task_routes``)."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cloudq.errors import ImproperlyConfigured

Route = Mapping[str, Any]
Router = Callable[[str], Route | None]


def compile_routes(routes: Any) -> Router:
    """Turn the ``task_routes`` setting into one function from task name to publish options.

    A mapping's keys are names, globs (``shop.*``) or compiled patterns, its values a queue name or
    a mapping of options (``{"queue": "fast", "priority": 3}``). A function is called with the task
    name (Celery's longer signature works too) and may return None. In a list, the first router
    that answers wins. In a mapping exact names win over patterns; patterns go in order.
    """
    if routes is None:
        return lambda name: None
    if isinstance(routes, Mapping):
        return _from_mapping(routes)
    if callable(routes):
        return _from_function(routes)
    if isinstance(routes, Sequence) and not isinstance(routes, str):
        routers = [compile_routes(each) for each in routes]

        def first(name: str) -> Route | None:
            return next((found for router in routers if (found := router(name)) is not None), None)

        return first
    raise ImproperlyConfigured(f"task_routes is a mapping, a function or a list of these, got {routes!r}")


def _from_mapping(routes: Mapping[Any, Any]) -> Router:
    exact: dict[str, Route] = {}
    patterns: list[tuple[re.Pattern[str], Route]] = []
    for key, value in routes.items():
        route = _as_route(key, value)
        if isinstance(key, re.Pattern):
            patterns.append((key, route))
        elif isinstance(key, str) and any(sign in key for sign in "*?["):
            patterns.append((re.compile(fnmatch.translate(key)), route))
        elif isinstance(key, str):
            exact[key] = route
        else:
            raise ImproperlyConfigured(f"task_routes: {key!r} is neither a name nor a pattern")

    def router(name: str) -> Route | None:
        found = exact.get(name)
        if found is None:
            found = next((route for pattern, route in patterns if pattern.match(name)), None)
        return found

    return router


def _as_route(key: Any, value: Any) -> Route:
    if isinstance(value, str):
        return {"queue": value}
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return dict(value)
    raise ImproperlyConfigured(f"task_routes[{key!r}] is a queue name or a mapping of options, got {value!r}")


def _from_function(function: Callable[..., Any]) -> Router:
    def router(name: str) -> Route | None:
        try:
            found = function(name)
        except TypeError as error:
            if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
                raise  # the router's own code failed; it was called all right
            found = function(name, (), {}, {}, task=None)  # Celery's router signature
        return None if found is None else _as_route(name, found)

    return router
