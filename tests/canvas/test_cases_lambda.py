"""The corpus through the Lambda handler: chains, chords, retries and all, as a worker runs them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from esm import Mapping

from cloudq import CloudQ
from cloudq.aws_lambda import make_handler

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from canvas import app_tasks
from canvas.cases import CASES
from canvas.running import Started


@pytest.fixture
def app() -> Iterator[CloudQ]:
    app = CloudQ("corpus", broker="memory://", backend="memory://")
    app_tasks.declare(app)
    yield app
    app.close()


@pytest.mark.timeout(240)
def test_the_corpus_through_the_handler(app: CloudQ) -> None:
    handler = make_handler(app, concurrency=4)
    mapping = Mapping(app, handler)
    stop = threading.Event()

    def poll() -> None:
        while not stop.is_set():
            mapping.once()
            stop.wait(0.01 if app.broker.depth("cloudq").visible == 0 else 0.0)

    poller = threading.Thread(target=poll, daemon=True)
    tasks = {name: app.tasks[name] for name in app.tasks}
    started = [Started(case, app, tasks) for case in CASES]
    poller.start()
    wrong = []
    try:
        for each in started:
            try:
                each.check(timeout=90.0)
            except AssertionError as error:
                wrong.append(str(error).splitlines()[0])
    finally:
        stop.set()
        poller.join(10)
        handler.close()
    assert wrong == []
    assert len(mapping.answers) > 20
    assert all(each["itemIdentifier"] for answer in mapping.answers for each in answer["batchItemFailures"])
