"""The corpus once more, behind a Lambda event source mapping: the same tasks, the same outcomes."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from esm import Mapping

from cloudq import CloudQ
from cloudq.aws_lambda import make_handler

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from canvas import app_tasks
from canvas.cases import CASES
from canvas.running import Started


@pytest.mark.timeout(120)
def test_lambda_agrees() -> None:
    with CloudQ("corpus", broker="memory://", backend="memory://", worker_lost_wait=0.0) as app:
        app_tasks.declare(app)
        tasks = {name: app.tasks[name] for name in app.tasks}
        handler = make_handler(app, concurrency=4)
        try:
            mapping = Mapping(app, handler)
            started = [Started(case, app, tasks) for case in CASES]
            until = time.monotonic() + 60
            while app.broker.depth("cloudq").total and time.monotonic() < until:
                mapping.once()
            for each in started:
                each.check(timeout=0.2)
        finally:
            handler.close()
