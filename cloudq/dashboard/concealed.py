"""Messages as people may see and change them: sensitive arguments are ``***``, and stay what they are when edited."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from cloudq.control.shown import HIDDEN, redacted, without_sensitive
from cloudq.dashboard.forms import BadInput
from cloudq.registry import Registry

#: Characters of a text that is no JSON, shown at most.
_MOST: Final = 20_000
#: What of a call holds its arguments, besides ``args`` and ``kwargs``.
_CONTENT: Final = "content"


@dataclass(frozen=True, slots=True)
class Shown:
    """A message for people. ``fixed`` says why it cannot be edited; ``unknown`` names tasks this app does not know."""

    text: str
    fixed: str | None = None
    unknown: tuple[str, ...] = ()


class Concealer:
    """Knows the tasks, and which names are hidden in every task's keyword arguments."""

    def __init__(self, tasks: Registry, hidden: Iterable[str]) -> None:
        self._tasks = tasks
        self._all = "*" in set(hidden)
        self._hidden = frozenset(each.lower() for each in hidden)

    def show(self, text: str) -> Shown:
        """A message's text, indented and without what is sensitive."""
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return Shown(text[:_MOST], "it is no JSON document")
        fixed = None
        if isinstance(found, dict) and isinstance(found.get("signed"), str):
            fixed = "it is signed: changed it would be refused; send the task again instead"
            try:
                found = {**found, "signed": json.loads(found["signed"])}
            except (ValueError, RecursionError):
                found = {**found, "signed": HIDDEN}
        elif not isinstance(found, dict):
            fixed = "it is no JSON object"
        unknown: dict[str, None] = {}
        try:
            plain = self._walk(found, unknown)
        except RecursionError:
            return Shown("", "it is nested too deeply to be shown")
        return Shown(json.dumps(plain, indent=2, ensure_ascii=False), fixed, tuple(unknown))

    def restore(self, original: str, edited: str) -> str:
        """What was meant by an edited ``show(original)``: hidden values are those of the original.

        Raises BadInput for what is no message, or changes something around a hidden value.
        """
        try:
            new = json.loads(edited)
        except (ValueError, RecursionError) as error:
            raise BadInput(f"The text is not JSON: {error}") from None
        if not isinstance(new, dict) or not isinstance(new.get("task"), str) or not new["task"]:
            raise BadInput('A message is a JSON object with at least {"task": "its.name"}.')
        old = json.loads(original)
        meant = _restored(old, self._walk(old, {}), new, "the message")
        return json.dumps(meant, ensure_ascii=False, separators=(",", ":"))

    # --- parts --------------------------------------------------------------------------------

    def _walk(self, value: Any, unknown: dict[str, None]) -> Any:
        """Every call in it, wherever it stands: chains and callbacks carry arguments, too."""
        if isinstance(value, list):
            return [self._walk(each, unknown) for each in value]
        if not isinstance(value, dict):
            return value
        if isinstance(value.get("task"), str):
            value = self._call(value, unknown)
            return {k: v if k in ("args", "kwargs") else self._walk(v, unknown) for k, v in value.items()}
        return {key: self._walk(each, unknown) for key, each in value.items()}

    def _call(self, call: dict[str, Any], unknown: dict[str, None]) -> dict[str, Any]:
        task, call = self._tasks.get(call["task"]), dict(call)
        if task is None:
            unknown[call["task"]] = None
        args, kwargs = call.get("args", []), call.get("kwargs", {})
        plain = isinstance(args, list) and isinstance(kwargs, dict)
        if task is None or self._all or not plain:
            call.update({name: _blank(call[name]) for name in ("args", "kwargs") if name in call})
        else:
            args, kwargs = without_sensitive(task, args, kwargs)
            both = {"args": list(args), "kwargs": redacted(dict(kwargs), self._hidden)}
            call.update({name: each for name, each in both.items() if name in call})
        packed = call.get(_CONTENT)
        if isinstance(packed, dict) and (task is None or self._all or getattr(task, "sensitive", None)):
            call[_CONTENT] = {**packed, "data": HIDDEN}
        return call


def _blank(value: Any) -> Any:
    if isinstance(value, list):
        return [HIDDEN for _ in value]
    return dict.fromkeys(value, HIDDEN) if isinstance(value, dict) else HIDDEN


def _restored(old: Any, shown: Any, new: Any, where: str) -> Any:
    if new == shown and type(new) is type(shown):
        return old
    if isinstance(old, dict) and isinstance(shown, dict) and isinstance(new, dict):
        return {
            key: _restored(old[key], shown[key], each, f"{where}.{key}") if key in old else _free(each, where)
            for key, each in new.items()
        }
    if isinstance(old, list) and isinstance(shown, list) and isinstance(new, list) and len(old) == len(new):
        return [
            _restored(a, b, c, f"{where}[{n}]")
            for n, (a, b, c) in enumerate(zip(old, shown, new, strict=True))
        ]
    return _free(new, where)


def _free(value: Any, where: str) -> Any:
    """A value that was written anew: with no ``***`` in it, which would be sent as such."""
    if HIDDEN in json.dumps(value, ensure_ascii=False):
        raise BadInput(
            f"{where} holds hidden values (***) and was changed around them: write it whole, or leave it."
        )
    return value
