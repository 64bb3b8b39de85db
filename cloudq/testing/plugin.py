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
def _cloudq_blocks() -> Iterator[ExitStack]:
    # One for all fixtures: an app in two of them leaves the later one first.
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def cloudq_sandbox(_cloudq_blocks: ExitStack) -> Callable[..., Any]:
    """``box = cloudq_sandbox(app)``: the app in memory with a clock the test moves, until the test ends.

    Keyword arguments are settings. See ``cloudq.testing.Sandbox`` for what the box can do.
    """
    from cloudq.testing.box import sandbox

    return lambda app, **settings: _cloudq_blocks.enter_context(sandbox(app, **settings))


@pytest.fixture
def cloudq_inline(_cloudq_blocks: ExitStack) -> Callable[..., Any]:
    """``cloudq_inline(app)``: calls run at once, until the test ends; see ``cloudq.testing.inline``."""
    from cloudq.testing.inlining import inline

    return lambda app, **options: _cloudq_blocks.enter_context(inline(app, **options))


@pytest.fixture
def cloudq_worker(_cloudq_blocks: ExitStack) -> Callable[..., Any]:
    """``cloudq_worker(app)``: the app in memory and a real worker in a thread, until the test ends.

    ``broker=`` and ``backend=`` put it elsewhere, further arguments are ``cloudq.testing.running_worker``'s.
    """
    from cloudq.testing.workers import running_worker

    def start(
        app: Any, *queues: str, broker: Any = "memory://", backend: Any = "memory://", **options: Any
    ) -> Any:
        _cloudq_blocks.enter_context(app.using(broker=broker, backend=backend, task_always_eager=False))
        return _cloudq_blocks.enter_context(running_worker(app, queues, **options))

    return start


@pytest.fixture(scope="session")
def _cloudq_moto_server() -> Iterator[str]:
    from cloudq.errors import MissingExtra
    from cloudq.testing.aws import moto_server

    with ExitStack() as stack:
        try:
            url = stack.enter_context(moto_server())
        except MissingExtra as error:
            pytest.skip(str(error))
        yield url


@pytest.fixture
def cloudq_moto(_cloudq_moto_server: str, _cloudq_blocks: ExitStack) -> Callable[..., Any]:
    """``cloudq_moto(app)``: the app on SQS and DynamoDB by moto, with a worker in a thread.

    Skips the test where moto is not installed. What the test left there is gone after it.
    """
    from cloudq.testing.aws import forget_everything, on_moto
    from cloudq.testing.workers import running_worker

    _cloudq_blocks.callback(forget_everything, _cloudq_moto_server)

    def start(app: Any, *queues: str, **options: Any) -> Any:
        _cloudq_blocks.enter_context(on_moto(app, _cloudq_moto_server, queues, worker_wait_time=1.0))
        return _cloudq_blocks.enter_context(running_worker(app, queues, **options))

    return start
