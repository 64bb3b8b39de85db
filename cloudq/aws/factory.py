"""Which port to use: one per region, endpoint and profile, shared by broker and backend."""

from __future__ import annotations

import os
from typing import Final

from cloudq.aws.port import AsyncPort, Port
from cloudq.errors import ImproperlyConfigured

DRIVERS: Final = ("boto3",)

_Key = tuple[int, str, str | None, str | None, str | None]
_ports: dict[_Key, Port] = {}


def make_port(
    region: str | None = None,
    endpoint_url: str | None = None,
    profile: str | None = None,
    driver: str = "boto3",
) -> Port:
    """The process's port for these arguments; the same arguments give the same port.

    None means AWS's own defaults (environment, shared config, role). A forked child gets ports of
    its own. Imports no SDK until the first call. Raises ImproperlyConfigured for an unknown driver.
    """
    _check(driver)
    key = (os.getpid(), driver, region, endpoint_url, profile)
    port = _ports.get(key)
    if port is None:
        from cloudq.aws.boto import BotoPort

        # setdefault keeps the first of two racing threads' ports; no lock to inherit across a fork.
        port = _ports.setdefault(key, BotoPort(region, endpoint_url, profile))
    return port


def make_async_port(
    region: str | None = None, endpoint_url: str | None = None, profile: str | None = None
) -> AsyncPort:
    """A new asyncio port (extra ``aio``); close it in the event loop that used it.

    Raises MissingExtra when aioboto3 is not installed.
    """
    from cloudq.aws.aioboto import AioPort

    return AioPort(region, endpoint_url, profile)


def _check(driver: str) -> None:
    if driver not in DRIVERS:
        raise ImproperlyConfigured(f"no AWS driver is called {driver!r}; known: {', '.join(DRIVERS)}")
