"""Jobs of the prefork pool that ask who submitted them whether they are still wanted."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudq.pools.base import End, Finished, RunnerSpec
from cloudq.pools.prefork import PreforkPool

RUNNER = """
import os, time

class Runner:
    def run(self, job, watch):
        kind, path = job
        if kind == "eased":
            watch.eased()
            return "said so"
        open(path + ".began", "w").close()
        while not os.path.exists(path):
            time.sleep(0.01)
        return [watch.wanted(kind == "ask"), watch.wanted(kind == "ask")]

    def close(self):
        time.sleep(0.005)

def make():
    return Runner()
"""


class Somebody:
    def __init__(self) -> None:
        self.answer = True
        self.asked: list[Any] = []
        self.eased_jobs: list[Any] = []

    def wanted(self, job: Any) -> bool:
        self.asked.append(job)
        return self.answer

    def eased(self, job: Any) -> None:
        self.eased_jobs.append(job)


class Run:
    """A job that is under way until it is let go."""

    def __init__(self, pool: PreforkPool, kind: str, path: Path) -> None:
        self.job = (kind, str(path))
        self._path = path
        self._ended = threading.Event()
        self._end: End | None = None
        pool.submit(self.job, self._done)

    def _done(self, end: End) -> None:
        self._end = end
        self._ended.set()

    def began(self) -> "Run":
        while not Path(f"{self._path}.began").exists():
            time.sleep(0.005)
        return self

    def finish(self) -> Any:
        self._path.touch()
        assert self._ended.wait(20)
        assert isinstance(self._end, Finished)
        return self._end.reply


@pytest.fixture
def owner() -> Somebody:
    return Somebody()


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Somebody) -> Iterator[PreforkPool]:
    (tmp_path / "owner_app.py").write_text(RUNNER)
    monkeypatch.syspath_prepend(str(tmp_path))
    made = PreforkPool(1)
    made.answer_to(owner)
    made.start(RunnerSpec("owner_app:make"))
    yield made
    made.stop(0.0)


def test_who_asks_is_answered(pool: PreforkPool, owner: Somebody, tmp_path: Path) -> None:
    yes = Run(pool, "ask", tmp_path / "1")
    assert yes.finish() == [True, True]
    owner.answer = False
    no = Run(pool, "ask", tmp_path / "2")
    assert no.finish() == [False, False]
    assert owner.asked == [yes.job, yes.job, no.job, no.job]


def test_who_does_not_ask_is_told_of_a_withdrawal(pool: PreforkPool, owner: Somebody, tmp_path: Path) -> None:
    lost = Run(pool, "look", tmp_path / "1").began()
    pool.withdraw(lost.job)
    assert lost.finish() == [False, False]
    assert Run(pool, "look", tmp_path / "2").finish() == [True, True]
    assert owner.asked == []


def test_a_withdrawal_that_comes_too_late_harms_no_other_job(pool: PreforkPool, tmp_path: Path) -> None:
    first = Run(pool, "look", tmp_path / "1").began()
    with pool._lock:
        (place,) = pool._places
        (tmp_path / "1").touch()
        while not pool._said_more(place):
            time.sleep(0.005)
        place.withdraw()  # it has answered; the word is there before its next job
    first.finish()
    assert Run(pool, "look", tmp_path / "2").finish() == [True, True]


def test_a_job_that_needs_no_keeping_says_so(pool: PreforkPool, owner: Somebody, tmp_path: Path) -> None:
    job = Run(pool, "eased", tmp_path / "1")
    assert job.finish() == "said so"
    assert owner.eased_jobs == [job.job]
