"""The pytest plugin: fixtures for tests of code that uses cloudq. See ``docs/testing.md``.

It is loaded by every pytest run where cloudq is installed, so it imports nothing of cloudq until
a fixture is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest


@pytest.fixture
def cloudq_sandbox() -> Iterator[Callable[..., Any]]:
    """``box = cloudq_sandbox(app)``: the app in memory with a clock the test moves, until the test ends."""
    from cloudq.testing.box import sandbox

    with ExitStack() as stack:
        yield lambda app, **options: stack.enter_context(sandbox(app, **options))


@pytest.fixture
def cloudq_inline() -> Iterator[Callable[..., Any]]:
    """``cloudq_inline(app)``: calls run at once, until the test ends."""
    from cloudq.testing.inlining import inline

    with ExitStack() as stack:
        yield lambda app, **options: stack.enter_context(inline(app, **options))


@pytest.fixture
def cloudq_worker() -> Iterator[Callable[..., Any]]:
    """``cloudq_worker(app)``: a real worker in a thread, stopped after the test."""
    from cloudq.testing.workers import running_worker

    with ExitStack() as stack:
        yield lambda app, *queues, **options: stack.enter_context(running_worker(app, queues, **options))


@pytest.fixture(scope="session")
def _cloudq_moto_server() -> Iterator[str]:
    from cloudq.errors import MissingExtra
    from cloudq.testing.aws import moto_server

    try:
        with moto_server() as url:
            yield url
    except MissingExtra as error:
        pytest.skip(str(error))


@pytest.fixture
def cloudq_moto(_cloudq_moto_server: str) -> Iterator[Callable[..., Any]]:
    """``cloudq_moto(app)``: the app on SQS and DynamoDB by moto, with a worker in a thread."""
    import urllib.request

    from cloudq.testing.aws import on_moto
    from cloudq.testing.workers import running_worker

    with ExitStack() as stack:

        def start(app: Any, *queues: str, **options: Any) -> Any:
            stack.enter_context(on_moto(app, _cloudq_moto_server, queues, worker_wait_time=1.0))
            stack.enter_context(running_worker(app, queues, **options))
            return app

        yield start
    reset = urllib.request.Request(f"{_cloudq_moto_server}/moto-api/reset", method="POST")  # noqa: S310
    urllib.request.urlopen(reset, timeout=10).close()  # noqa: S310  our own loopback server
