"""Which calls fit a function: told by counting where that is enough."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from cloudq.errors import ImproperlyConfigured

#: The parameters of a function that takes anything.
ANYTHING: Final = inspect.signature(lambda *args, **kwargs: None)


def parameters_of(function: Callable[..., Any], bound: bool) -> inspect.Signature:
    """What a caller gives; ``bound``: less the first one. Raises ImproperlyConfigured when there is none."""
    signature = inspect.signature(function)
    if not bound:
        return signature
    parameters = list(signature.parameters.values())
    if not parameters:
        raise ImproperlyConfigured(f"{function.__qualname__} has bind=True but takes no `self`")
    return signature.replace(parameters=parameters[1:])


class Arity:
    """``check`` is ``inspect.Signature.bind`` without its result, and without its price for the usual call."""

    __slots__ = ("_least", "_most", "_signature")

    def __init__(self, signature: inspect.Signature) -> None:
        self._signature = signature
        #: How many positional arguments alone are enough, and how many are too many.
        self._least: float = 0
        self._most: float = 0
        for each in signature.parameters.values():
            needed = each.default is each.empty
            if each.kind is each.VAR_POSITIONAL:
                self._most = math.inf
            elif each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD):
                self._most += 1
                self._least += needed
            elif each.kind is each.KEYWORD_ONLY and needed:
                self._least = math.inf

    def check(self, args: Iterable[Any], kwargs: Mapping[str, Any] | None) -> None:
        """Raise TypeError, saying why, unless the function could be called so."""
        if not kwargs and type(args) is tuple and self._least <= len(args) <= self._most:
            return
        self._signature.bind(*args, **(kwargs or {}))
