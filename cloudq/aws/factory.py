"""Which port to use: one per region, endpoint and profile, shared by broker and backend."""

from __future__ import annotations

import os
from typing import Final

from cloudq.aws.port import AsyncPort, Port
from cloudq.errors import ImproperlyConfigured

#: ``lean`` speaks the hot operations itself and leaves the rest to boto3.
DRIVERS: Final = ("lean", "boto3")
#: URL schemes that take ``driver=``.
SCHEMES: Final = ("sqs", "dynamodb")

_Key = tuple[int, str, str | None, str | None, str | None]
_ports: dict[_Key, Port] = {}


def make_port(
    region: str | None = None,
    endpoint_url: str | None = None,
    profile: str | None = None,
    driver: str = "lean",
) -> Port:
    """The process's port for these arguments; the same arguments give the same port.

    None means AWS's own defaults (environment, shared config, role). A forked child gets ports of
    its own. Imports no SDK until the first call. Raises ImproperlyConfigured for an unknown driver.
    """
    _check(driver)
    key = (os.getpid(), driver, region, endpoint_url, profile)
    port = _ports.get(key)
    if port is None:
        # setdefault keeps the first of two racing threads' ports; no lock to inherit across a fork.
        port = _ports.setdefault(key, _make(driver, region, endpoint_url, profile))
    return port


def _make(driver: str, region: str | None, endpoint_url: str | None, profile: str | None) -> Port:
    if driver == "boto3":
        from cloudq.aws.boto import BotoPort

        return BotoPort(region, endpoint_url, profile)
    from cloudq.aws.lean import LeanPort

    return LeanPort(region, endpoint_url, profile)


def make_async_port(
    region: str | None = None,
    endpoint_url: str | None = None,
    profile: str | None = None,
    driver: str = "lean",
) -> AsyncPort:
    """A new asyncio port; close it in the event loop that used it.

    Raises MissingExtra for ``boto3`` when aioboto3 (extra ``aio``) is not installed.
    """
    _check(driver)
    if driver == "boto3":
        from cloudq.aws.aioboto import AioPort

        return AioPort(region, endpoint_url, profile)
    from cloudq.aws.aiolean import AsyncLeanPort

    return AsyncLeanPort(region, endpoint_url, profile)


def _check(driver: str) -> None:
    if driver not in DRIVERS:
        raise ImproperlyConfigured(f"no AWS driver is called {driver!r}; known: {', '.join(DRIVERS)}")
