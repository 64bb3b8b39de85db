"""The real runtime client around the handler: warm, cold, out of time, dead. Nothing is lost."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from esm import Context, Mapping
from runtime_api import FunctionError, Killed, Runtime

from cloudq import CloudQ
from cloudq.errors import WorkerLostError

pytest.importorskip("awslambdaric")

TASKS = '''
import ctypes, os, time
from cloudq import CloudQ
from cloudq.aws_lambda import budget, make_handler

if "TEST_MARGIN" in os.environ:  # seconds kept back for the answer: ample on a busy machine
    budget.LEAST, budget.MOST = float(os.environ["TEST_MARGIN"]), 0.9
app = CloudQ("shop")
handler = make_handler(app)


@app.task
def add(x, y):
    return x + y


@app.task
def where():
    return os.getpid()


@app.task
def sleep(seconds):
    time.sleep(seconds)
    return seconds


@app.task
def die():
    os._exit(3)


@app.task
def seize(seconds):
    """Nothing else runs in this process meanwhile: the C call keeps Python's lock."""
    ctypes.PyDLL(None).sleep(seconds)
'''


class Function:
    """An app whose tasks run in a Lambda runtime, and a mapping between."""

    def __init__(self, folder: Path) -> None:
        (folder / "shop.py").write_text(TASKS)
        urls = {
            "CLOUDQ_BROKER_URL": f"sqlite:///{folder}/q.db?visibility_timeout=60&max_receive_count=5",
            "CLOUDQ_RESULT_BACKEND": f"sqlite:///{folder}/r.db",
        }
        clean = {name: value for name, value in os.environ.items() if not name.startswith("CLOUDQ_")}
        self.app = CloudQ("client", broker=urls["CLOUDQ_BROKER_URL"], backend=urls["CLOUDQ_RESULT_BACKEND"])
        env = {
            **clean,
            **urls,
            "CLOUDQ_WORKER_LOST_WAIT": "0",
            "PYTHONUNBUFFERED": "1",
            "PYTHONFAULTHANDLER": "1",
        }
        self.runtime = Runtime("shop.handler", folder, env)
        self.mapping = Mapping(self.app, self._invoke)

    def _invoke(self, event: Any, context: Context) -> Any:
        return self.runtime.invoke(event, context.get_remaining_time_in_millis() / 1000)

    def once(self, seconds: float = 30.0) -> list[str]:
        """One invocation. A batch that was not answered is visible again at once, as after its timeout."""
        try:
            return self.mapping.once(seconds)
        except (Killed, FunctionError):
            self.app.broker.release(self.mapping.held, 0.0)
            raise


@pytest.fixture
def function(tmp_path: Path) -> Iterator[Function]:
    found = Function(tmp_path)
    yield found
    found.runtime.close()
    found.app.close()


def test_cold_and_warm_in_one_process(function: Function) -> None:
    send = function.app.send_task
    first = [send("shop.add", (n, n)) for n in range(10)]
    assert function.once() == []
    second = [send("shop.where") for _ in range(5)]
    assert function.once() == []

    assert [each.get(timeout=1) for each in first] == [2 * n for n in range(10)]
    assert len({each.get(timeout=1) for each in second}) == 1
    assert function.runtime.starts == 1


def test_a_task_that_outlives_the_invocation_is_given_back_before_lambda_kills(function: Function) -> None:
    function.runtime._env["TEST_MARGIN"] = "10"
    send = function.app.send_task
    long, quick = send("shop.sleep", (60,)), [send("shop.add", (n, 1)) for n in range(4)]
    failed = function.once(seconds=12.0)  # or it would have been killed

    assert len(failed) == 1
    assert [each.get(timeout=1) for each in quick] == [1, 2, 3, 4]
    assert function.runtime.starts == 1
    for _ in range(3):  # up to the queue's limit
        function.app.broker.release(function.app.broker.receive("cloudq", 1, 0.0, 60.0), 0.0)
    assert function.once(seconds=12.0) == []
    with pytest.raises(WorkerLostError, match="raise the function's timeout"):
        long.get(timeout=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "args", "seconds"), [("shop.die", (), 30.0), ("shop.seize", (60,), 4.0)], ids=["dies", "hangs"]
)
def test_a_process_that_dies_or_hangs_loses_nothing(
    function: Function, task: str, args: tuple[Any, ...], seconds: float
) -> None:
    send = function.app.send_task
    before = [send("shop.add", (n, 1)) for n in range(4)]
    send(task, args)
    after = [send("shop.add", (n, 2)) for n in range(4)]
    for _ in range(5):
        with pytest.raises(Killed):
            function.once(seconds)
    function.once()

    assert [each.get(timeout=1) for each in before + after] == [1, 2, 3, 4, 2, 3, 4, 5]
    assert function.app.broker.depth("cloudq").total == 0
    dead = function.app.broker.receive("cloudq-dlq", 10, 0.0, 1.0)
    assert [f'"{task}"' in each.body for each in dead] == [True], "the culprit, and nobody else"


def test_what_is_missing_shows_at_the_start(function: Function, tmp_path: Path) -> None:
    function.runtime._env.pop("CLOUDQ_RESULT_BACKEND")
    function.app.send_task("shop.add", (1, 1))
    with pytest.raises(FunctionError, match="inside Lambda"):
        function.once()
