"""``app.conf``: the settings in force, and where their values come from.

Later ones win: the defaults, ``[tool.cloudq]`` in pyproject.toml, ``CLOUDQ_*`` environment variables,
``app.config_from_object``, the arguments of ``CloudQ(...)``, and ``app.conf`` itself.
"""

from __future__ import annotations

import dataclasses
import itertools
import operator
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from cloudq.errors import SettingError
from cloudq.settings import NAMES, TYPES, Settings, check, unknown

#: Environment variables of the command line and the handlers, which are no settings.
TOOL_VARIABLES = frozenset({"CLOUDQ_APP", "CLOUDQ_DASHBOARD_TOKEN", "CLOUDQ_DEBUG"})

_revisions = itertools.count(1)


class Conf:
    """``app.conf``: settings as attributes and items, each checked when it is set.

    ``seal`` is called by the app once it has opened its broker and backend: from then on the
    URLs can no longer change unnoticed.
    """

    __slots__ = ("_explicit", "_sealed", "_values", "revision")

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        object.__setattr__(self, "_values", Settings())
        object.__setattr__(self, "_explicit", set())
        object.__setattr__(self, "_sealed", {})
        self._changed()
        self.update(values or {})

    _values: Settings
    _explicit: set[str]
    _sealed: dict[str, str]
    #: Another number after each change, also of other apps: what was made of settings is good as long as it is the same.
    revision: int

    def __getattr__(self, name: str) -> Any:  # what is a setting is a property, see below
        raise AttributeError(name if name.startswith("__") else unknown(name))

    def __setattr__(self, name: str, value: Any) -> None:
        self._set(name, value)

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    def __setitem__(self, name: str, value: Any) -> None:
        self._set(name, value)

    def __contains__(self, name: object) -> bool:
        return name in TYPES

    def get(self, name: str, default: Any = None) -> Any:
        """The value, or ``default`` when no setting has that name."""
        return getattr(self._values, name) if name in TYPES else default

    def update(self, values: Mapping[str, Any] | None = None, **more: Any) -> None:
        """Set several; all are checked before any is set."""
        checked = {name: check(name, value) for name, value in {**(values or {}), **more}.items()}
        for name, value in checked.items():
            self._set(name, value)

    def explicit(self, name: str) -> bool:
        """Was it set by anybody, or is it the default?"""
        return name in self._explicit

    def items(self) -> Iterator[tuple[str, Any]]:
        """(name, value) of every setting."""
        return self._values.items()

    def seal(self, name: str, why: str) -> None:
        """From now on, setting ``name`` to something else is an error."""
        self._sealed[name] = why

    def snapshot(self) -> tuple[Settings, set[str], dict[str, str]]:
        """Everything as it is now, for ``restore``."""
        return dataclasses.replace(self._values), set(self._explicit), dict(self._sealed)

    def restore(self, before: tuple[Settings, set[str], dict[str, str]]) -> None:
        """Everything as it was."""
        for name, value in zip(("_values", "_explicit", "_sealed"), before, strict=True):
            object.__setattr__(self, name, value)
        self._changed()

    def unseal(self) -> None:
        """Everything may change again: the app has closed what it had opened."""
        self._sealed.clear()

    def load_environment(self, environ: Mapping[str, str] | None = None) -> None:
        """Take ``CLOUDQ_<NAME>`` variables. Unknown ones are refused unless they belong to the tools."""
        for variable, value in (os.environ if environ is None else environ).items():
            if (
                not variable.startswith("CLOUDQ_")
                or variable.startswith("CLOUDQ_TEST_")
                or variable in TOOL_VARIABLES
            ):
                continue
            name = variable.removeprefix("CLOUDQ_").lower()
            if name not in TYPES:
                raise SettingError(f"environment variable {variable}: {unknown(name)}")
            try:
                self._set(name, check(name, value, text=True))
            except SettingError as error:
                raise SettingError(f"environment variable {variable}: {error}") from None

    def load_pyproject(self, start: str | os.PathLike[str] | None = None) -> str | None:
        """Take ``[tool.cloudq]`` of the nearest pyproject.toml at or above ``start``; returns its path."""
        folder = os.path.realpath(start or os.getcwd())
        while not os.path.isfile(path := os.path.join(folder, "pyproject.toml")):
            parent = os.path.dirname(folder)
            if parent == folder:
                return None
            folder = parent
        with open(path, "rb") as file:
            data = file.read()
        # What only depends on cloudq, or has never heard of it, is spared the TOML parser (4 ms): in all
        # that TOML allows, [tool.cloudq] or tool = {cloudq = ...}, the key's end looks like this.
        if b"cloudq" not in data or not re.search(rb"""cloudq["']?[ \t]*[].=]""", data):
            return None
        return path if self._take_toml(data, path) else None

    def _take_toml(self, data: bytes, path: str) -> bool:
        import tomllib

        try:
            table = tomllib.loads(data.decode("utf-8")).get("tool", {}).get("cloudq")
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingError(f"{path}: {error}") from None
        if table is None:
            return False
        try:
            self.update(table)
        except SettingError as error:
            raise SettingError(f"{path} [tool.cloudq]: {error}") from None
        return True

    def load_object(self, source: Any, namespace: str | None = None) -> None:
        """Take settings from a module, class or mapping.

        Mappings are taken whole. Of a module or class the public lower-case names are taken, or
        with ``namespace="CLOUDQ"`` the ``CLOUDQ_*`` ones (Django's habit).
        """
        if isinstance(source, Mapping):
            found = dict(source)
        elif namespace:
            start = namespace.upper() + "_"
            found = {
                n.removeprefix(start).lower(): getattr(source, n) for n in dir(source) if n.startswith(start)
            }
        else:
            found = {
                n: getattr(source, n)
                for n in dir(source)
                if not n.startswith("_") and n.islower() and (n in TYPES or _is_plain(getattr(source, n)))
            }
        self.update(found)

    def _set(self, name: str, value: Any) -> None:
        value = check(name, value)
        if name in self._sealed and value != getattr(self._values, name):
            raise SettingError(f"setting {name} can no longer change: {self._sealed[name]}")
        setattr(self._values, name, value)
        self._explicit.add(name)
        self._changed()

    def _changed(self) -> None:
        object.__setattr__(self, "revision", next(_revisions))


for _name in NAMES:  # a task's life reads a dozen of them
    setattr(Conf, _name, property(operator.attrgetter(f"_values.{_name}")))


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool | list | dict | tuple | None)
