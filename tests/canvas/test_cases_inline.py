"""Every case of the corpus, eager and as a worker runs it; the other half is in test_cases_everywhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudq import CloudQ
from cloudq.testing import sandbox

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from canvas import app_tasks
from canvas.cases import CASES, Case
from canvas.running import Started


@pytest.fixture(scope="module")
def app() -> Iterator[CloudQ]:
    app = CloudQ("corpus", broker="memory://", backend="memory://")
    app_tasks.declare(app)
    yield app
    app.close()


def named(case: Case) -> str:
    return case.name


@pytest.mark.parametrize("case", CASES, ids=named)
def test_eager(app: CloudQ, case: Case) -> None:
    Started(case, app, {name: app.tasks[name] for name in app.tasks}, eager=True).check()


@pytest.mark.parametrize("case", CASES, ids=named)
def test_as_a_worker_runs_it(app: CloudQ, case: Case) -> None:
    with sandbox(app) as box:
        started = Started(case, app, {name: app.tasks[name] for name in app.tasks})
        box.drain()
        started.check()


def test_there_are_enough_of_them_and_none_twice() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 150
