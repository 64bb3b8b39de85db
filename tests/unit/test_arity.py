"""A call fits a function exactly when Python says that it does."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from cloudq.arity import ANYTHING, Arity, parameters_of
from cloudq.errors import ImproperlyConfigured


def nothing() -> None: ...
def two(a: int, b: int) -> None: ...
def optional(a: int, b: int = 1) -> None: ...
def only_positional(a: int, /, b: int = 1) -> None: ...
def many(a: int, *rest: int) -> None: ...
def named(a: int, *, b: int) -> None: ...
def named_optional(a: int, *, b: int = 1) -> None: ...
def anything(*args: Any, **kwargs: Any) -> None: ...


FUNCTIONS = [nothing, two, optional, only_positional, many, named, named_optional, anything]
KEYWORDS: list[dict[str, Any] | None] = [None, {}, {"a": 1}, {"b": 1}, {"a": 1, "b": 2}, {"c": 3}]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda each: each.__name__)
def test_it_says_what_binding_the_arguments_says(function: Callable[..., Any]) -> None:
    signature = inspect.signature(function)
    arity = Arity(signature)
    for count, kwargs in itertools.product(range(5), KEYWORDS):
        args = tuple(range(count))
        try:
            signature.bind(*args, **(kwargs or {}))
        except TypeError as error:
            with pytest.raises(TypeError) as found:
                arity.check(args, kwargs)
            assert str(found.value) == str(error)
        else:
            arity.check(args, kwargs)


def test_any_iterable_of_arguments_is_counted() -> None:
    Arity(inspect.signature(two)).check(iter([1, 2]), None)
    with pytest.raises(TypeError, match="too many"):
        Arity(inspect.signature(two)).check(iter([1, 2, 3]), None)


def test_the_task_itself_is_no_argument_of_a_bound_task() -> None:
    assert list(parameters_of(two, bound=True).parameters) == ["b"]
    assert parameters_of(two, bound=False) == inspect.signature(two)
    with pytest.raises(ImproperlyConfigured, match="takes no `self`"):
        parameters_of(nothing, bound=True)


def test_anything_fits_what_takes_anything() -> None:
    Arity(ANYTHING).check((1, 2, 3), {"x": 4})
