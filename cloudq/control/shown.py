"""Arguments and results as people may see them: short, and without secrets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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


def _secret(key: Any, hidden: frozenset[str]) -> bool:
    return isinstance(key, str) and any(each in key.lower() for each in hidden)
