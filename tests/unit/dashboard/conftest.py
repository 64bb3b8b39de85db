"""An app with workers, tasks and dead letters, and a browser that looks at its dashboard."""

from collections.abc import Iterator

import pytest
from dashboard_browser import Browser, beat, ended

from cloudq import CloudQ
from cloudq.testing.clock import ManualClock

pytest.importorskip("starlette")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def app(clock: ManualClock) -> Iterator[CloudQ]:
    with CloudQ("shop", broker="memory://", backend="memory://", clock=clock, monitoring="history") as app:
        now = clock.time()
        counts = {"a": {"received": 100}}
        running = ({"id": "t-1", "name": "slow", "queue": "a", "since": now - 5.0},)
        beat(
            app,
            "w1",
            now,
            queues=("a", "b"),
            running=running,
            stats={"active": 1, "acked": 7, "queues": counts},
        )
        beat(app, "w2", now - 500.0, queues=("a",))
        for _ in range(3):
            app.send_task("add", queue="a")
        app.control.pause("c")
        ended(app, uuid="t-0", name="boom", exception="ValueError('<b>no</b>')")
        yield app


@pytest.fixture
def browser(app: CloudQ) -> Browser:
    return Browser(app)
