"""Where beat keeps its things in the results store."""

from __future__ import annotations

from urllib.parse import quote

from cloudq.app import CloudQ
from cloudq.backends.base import ResultBackend
from cloudq.errors import ImproperlyConfigured


def identity(app: CloudQ) -> str:
    """What tells apps apart that share a results store: their name, and ``control_namespace``."""
    space = app.conf.control_namespace
    return app.main if space == "default" else f"{app.main}@{space}"


def segment(app: CloudQ) -> str:
    """The identity as part of a key."""
    return quote(identity(app), safe="@").replace(".", "%2E")


def key_of(app: CloudQ, what: str) -> str:
    """``beat/APP/WHAT``."""
    return f"beat/{segment(app)}/{what}"


def store_of(app: CloudQ) -> ResultBackend:
    """The results store, which knows what was sent. Raises ImproperlyConfigured without one."""
    backend = app.backend
    if backend is None:
        raise ImproperlyConfigured(
            "periodic tasks need a results store (leases and what was sent are kept there), and result_backend is "
            "disabled://: set one, or let EventBridge send them (`cloudq schedule sync`)"
        )
    return backend
