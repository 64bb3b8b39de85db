"""Finding an app by its name: ``module:app``."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType

from cloudq.app import CloudQ
from cloudq.errors import ImproperlyConfigured


def load_app(path: str | None, *, include: bool = True) -> CloudQ:
    """Import ``module:attribute`` (or ``module``, when one app is in it) and its ``include`` modules.

    The working directory is importable, as with ``python -m``. ``path`` defaults to the environment
    variable ``CLOUDQ_APP``. Raises ImproperlyConfigured; errors inside the module come through.
    """
    path = path or os.environ.get("CLOUDQ_APP")
    if not path:
        raise ImproperlyConfigured("which app? Give -A module:app, or set CLOUDQ_APP")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    name, _, attribute = path.partition(":")
    module = _import(name, path)
    app = _attribute(module, attribute, path) if attribute else _only_app(module, path)
    if include:
        for each in app.conf.include:
            _import(each, f"include of {path}")
    return app


def _import(name: str, path: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise ImproperlyConfigured(
                f"{path}: there is no module {error.name!r} here (in {os.getcwd()}) or on the Python path"
            ) from None
        raise
    except (TypeError, ValueError) as error:
        if not name or name.startswith("."):
            raise ImproperlyConfigured(f"{path!r} is not of the form module:app") from error
        raise


def _attribute(module: ModuleType, attribute: str, path: str) -> CloudQ:
    found: object = module
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if isinstance(found, CloudQ):
        return found
    apps = _apps(module)
    hint = f"; there is {module.__name__}:{apps[0]}" if apps else ""
    what = "nothing" if found is None else f"a {type(found).__name__}"
    raise ImproperlyConfigured(f"{path}: {attribute!r} is {what}, not a CloudQ app{hint}")


def _only_app(module: ModuleType, path: str) -> CloudQ:
    apps = _apps(module)
    if len({id(getattr(module, each)) for each in apps}) != 1:
        found = ", ".join(apps) if apps else "none"
        raise ImproperlyConfigured(f"{path}: say which app with module:name (found: {found})")
    app: CloudQ = getattr(module, apps[0])
    return app


def _apps(module: ModuleType) -> list[str]:
    return [name for name, value in vars(module).items() if isinstance(value, CloudQ)]
