"""Where beat keeps its things in the results store."""

from __future__ import annotations

from urllib.parse import quote

from cloudq.app import CloudQ
from cloudq.backends.base import ResultBackend
from cloudq.errors import ImproperlyConfigured


def key_of(app: CloudQ, what: str) -> str:
    """``beat/APP/WHAT``: apps that share a store do not mix."""
    return f"beat/{quote(app.main, safe='').replace('.', '%2E')}/{what}"


def store_of(app: CloudQ) -> ResultBackend:
    """The results store, which knows what was sent. Raises ImproperlyConfigured without one."""
    backend = app.backend
    if backend is None:
        raise ImproperlyConfigured(
            "periodic tasks need a results store (leases and what was sent are kept there), and result_backend is "
            "disabled://: set one, or let EventBridge send them (`cloudq schedule sync`)"
        )
    return backend
