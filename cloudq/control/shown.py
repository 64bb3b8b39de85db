"""Arguments and results as people may see them: short, and without secrets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

#: Longest text of one value's repr.
LIMIT: Final = 1_000
HIDDEN: Final = "***"


def redacted(value: Any, hidden: frozenset[str], depth: int = 6) -> Any:
    """``value`` with everything under a name that contains one of ``hidden`` replaced."""
    if depth == 0:
        return value
    if isinstance(value, Mapping):
        return {
            key: HIDDEN if _secret(key, hidden) else redacted(each, hidden, depth - 1)
            for key, each in value.items()
        }
    if isinstance(value, list | tuple):
        return [redacted(each, hidden, depth - 1) for each in value]
    return value


def shown(value: Any, hidden: Iterable[str] = ()) -> str:
    """A repr of at most LIMIT characters. Never raises, whatever the value's own repr does."""
    if "*" in hidden:
        return HIDDEN
    try:
        text = repr(redacted(value, frozenset(each.lower() for each in hidden)))
    except Exception as error:  # noqa: BLE001  somebody else's __repr__
        text = f"<{type(value).__name__}: its repr raised {type(error).__name__}>"
    return text if len(text) <= LIMIT else text[: LIMIT - 1] + "…"


def shown_call(
    task: Any, args: Sequence[Any], kwargs: Mapping[str, Any], hidden: Iterable[str] = ()
) -> tuple[str, str]:
    """The reprs of a call's arguments; what the task (None: it is not known here) calls sensitive is hidden."""
    if getattr(task, "sensitive", None) is True:
        return HIDDEN, HIDDEN
    args, kwargs = without_sensitive(task, args, kwargs)
    return shown(list(args), hidden), shown(dict(kwargs), hidden)


def without_sensitive(
    task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """A call's arguments with ``***`` in place of what the task calls sensitive."""
    names = getattr(task, "sensitive", None)
    if names is True:
        return [HIDDEN for _ in args], dict.fromkeys(kwargs, HIDDEN)
    return (
        _without(task, (names,) if isinstance(names, str) else names, args, kwargs)
        if names
        else (args, kwargs)
    )


def shown_result(task: Any, value: Any, hidden: Iterable[str] = ()) -> str:
    """The repr of a task's result."""
    return HIDDEN if getattr(task, "sensitive", None) is True else shown(value, hidden)


def _without(
    task: Any, names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    parameters = list(task.parameters.parameters.values())
    rest = next((each.name for each in parameters if each.kind is each.VAR_POSITIONAL), None)
    positional = [
        each.name for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
    ]
    if task.batch is not None:  # its function does not say what its calls' arguments are called
        return [HIDDEN for _ in args], {
            name: HIDDEN if name in names else each for name, each in kwargs.items()
        }
    own = [
        HIDDEN if (positional[place] if place < len(positional) else rest) in names else value
        for place, value in enumerate(args)
    ]
    return own, {name: HIDDEN if name in names else value for name, value in kwargs.items()}


def _secret(key: Any, hidden: frozenset[str]) -> bool:
    return isinstance(key, str) and any(each in key.lower() for each in hidden)
