"""What cloudq.testing promises to users' own tests."""

import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from cloudq import CloudQ
from cloudq.errors import SettingError
from cloudq.testing import running_worker, sandbox


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


def test_drain_tells_the_tasks_in_the_order_in_which_they_ended(app: CloudQ) -> None:
    @app.task(name="moody", autoretry_for=(ConnectionError,), retry_backoff=5, bind=True)
    def moody(task: Any) -> int:
        if task.request.retries < 2:
            raise ConnectionError
        return int(task.request.retries)

    with sandbox(app) as box:
        patient, quick = moody.delay(), app.send_task("add", (1, 2))
        assert [(each.id, each.result) for each in box.drain()] == [(quick.id, 3), (patient.id, 2)]
        assert box.drain() == []


def test_drain_without_jumps_leaves_what_is_not_due(app: CloudQ) -> None:
    with sandbox(app) as box:
        later = app.send_task("add", (1, 2), countdown=2000)
        assert box.drain(jump=False) == []
        box.advance(1000)
        assert box.drain(jump=False) == []
        assert later.state == "PENDING"
        box.advance(1000)
        assert [each.result for each in box.drain(jump=False)] == [3]


def test_drain_of_named_queues_leaves_the_others(app: CloudQ) -> None:
    with sandbox(app) as box:
        slow, fast = app.send_task("add", (1, 2), queue="slow"), app.send_task("add", (3, 4), queue="fast")
        assert [each.id for each in box.drain("fast")] == [fast.id]
        assert [each.id for each in box.drain()] == [slow.id]


def test_drain_takes_time_in_proportion_to_the_messages(app: CloudQ) -> None:
    reads = 0
    with sandbox(app) as box:
        read = app.read
        app.send_many(app.signature("add", (n, n)) for n in range(300))

        def counted(task_id: str) -> Any:
            nonlocal reads
            reads += 1
            return read(task_id)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(app, "read", counted)
            assert len(box.drain()) == 300
    assert reads == 300


async def test_a_sandbox_serves_async_code_too(app: CloudQ) -> None:
    @app.task(name="aadd")
    async def aadd(x: int, y: int) -> int:
        return x + y

    with sandbox(app) as box:
        result = await aadd.adelay(1, 2)
        box.drain()
        assert await result.aget(timeout=1) == 3


def test_a_sandbox_queues_although_the_projects_settings_say_eager(app: CloudQ) -> None:
    app.conf.task_always_eager = True
    with sandbox(app) as box:
        result = app.send_task("add", (1, 2))
        assert result.state == "PENDING"
        assert [each.result for each in box.drain()] == [3]


def test_a_listener_of_a_left_sandbox_hears_nothing_more(app: CloudQ) -> None:
    with sandbox(app) as box:
        app.send_task("add", (1, 2))
    assert not any(app.hooks.wants(point) for point in ("task_sent", "task_received"))
    with sandbox(app):
        app.send_task("add", (3, 4))
    assert [each.args for each in box.sent] == [(1, 2)]


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


def test_blocks_that_end_out_of_order_are_told(app: CloudQ) -> None:
    first, second = app.using(broker="memory://"), app.using(broker="memory://")
    first.__enter__()
    second.__enter__()

    with pytest.raises(RuntimeError, match="ends before a using"):
        first.__exit__(None, None, None)


def test_inline_raises_and_stores(app: CloudQ, cloudq_inline: Callable[..., Any]) -> None:
    cloudq_inline(app)
    result = app.send_task("add", (1, 2))

    assert app.AsyncResult(result.id).get(timeout=1) == 3


def test_a_worker_runs_in_a_thread(app: CloudQ) -> None:
    with app.using(broker="memory://", backend="memory://"), running_worker(app, concurrency=2) as worker:
        assert [
            each.get(timeout=10) for each in app.send_many(app.signature("add", (n, n)) for n in range(30))
        ] == [2 * n for n in range(30)]
        assert worker.stats()["concurrency"] == 2
    assert not [each for each in threading.enumerate() if each.name == "cloudq-test-worker"]


def test_the_plugin_costs_other_peoples_tests_nothing() -> None:
    code = (
        "import sys, pytest; before = set(sys.modules)\n"
        "import cloudq.testing.plugin\n"
        "print(sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "['cloudq', 'cloudq.testing', 'cloudq.testing.plugin']"
