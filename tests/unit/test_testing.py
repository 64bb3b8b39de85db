"""What cloudq.testing promises to users' own tests."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from cloudq import CloudQ
from cloudq.errors import SettingError
from cloudq.testing import sandbox


@pytest.fixture
def app() -> CloudQ:
    app = CloudQ("mine", broker="sqs://?region=eu-west-1", backend="dynamodb://t?region=eu-west-1")

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="again")
    def again() -> None:
        app.send_task("again")

    return app


def test_assert_sent_lists_what_was_sent_instead(app: CloudQ) -> None:
    with sandbox(app) as box:
        with pytest.raises(AssertionError, match="nothing was sent at all"):
            box.assert_sent("add")
        app.send_task("add", (1, 2))
        assert box.assert_sent("add", (1, 2), queue="cloudq", times=1)[0].args == (1, 2)
        with pytest.raises(
            AssertionError, match=r"no such call of add was sent; sent were:\n  add\(1, 2\) to cloudq"
        ):
            box.assert_sent("add", (3, 4))
        with pytest.raises(AssertionError, match="1 such calls of add were sent, not 2"):
            box.assert_sent("add", times=2)


def test_drain_returns_what_ended_and_stops_at_a_loop(app: CloudQ) -> None:
    with sandbox(app) as box:
        first, second = app.send_task("add", (1, 2)), app.send_task("add", (3, 4), countdown=1000)
        assert [(each.id, each.result) for each in box.drain()] == [(first.id, 3), (second.id, 7)]
        app.send_task("again")
        with pytest.raises(AssertionError, match="more than 50 messages"):
            box.drain(limit=50)


def test_the_app_is_as_it_was_before(app: CloudQ) -> None:
    clock = app.clock
    with sandbox(app, task_time_limit=3):
        assert app.conf.task_time_limit == 3.0
        assert app.broker.url == "memory://"
        with pytest.raises(SettingError, match="can no longer change"):
            app.conf.broker_url = "sqs://"

    assert (app.conf.broker_url, app.conf.task_time_limit) == ("sqs://?region=eu-west-1", None)
    assert app.clock is clock
    app.conf.broker_url = "memory://"
    with sandbox(app) as box:
        assert box.sent == []


def test_the_app_is_as_it_was_even_after_an_error(app: CloudQ) -> None:
    with pytest.raises(ZeroDivisionError), app.using(broker="memory://", task_always_eager=True):
        _ = app.broker
        raise ZeroDivisionError

    assert app.conf.task_always_eager is False


def test_inline_raises_and_stores(app: CloudQ, cloudq_inline: Callable[..., Any]) -> None:
    cloudq_inline(app)
    result = app.send_task("add", (1, 2))

    assert app.AsyncResult(result.id).get(timeout=1) == 3


def test_a_worker_runs_in_a_thread(app: CloudQ, cloudq_worker: Callable[..., Any]) -> None:
    with app.using(broker="memory://", backend="memory://"):
        worker = cloudq_worker(app, concurrency=2)
        assert [
            each.get(timeout=10) for each in app.send_many(app.signature("add", (n, n)) for n in range(30))
        ] == [2 * n for n in range(30)]
        worker.stop()


def test_the_plugin_costs_other_peoples_tests_nothing() -> None:
    code = (
        "import sys, cloudq.testing.plugin\n"
        "print([name for name in ('moto', 'boto3', 'msgspec') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
