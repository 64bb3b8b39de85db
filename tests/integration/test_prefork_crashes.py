"""Children of the prefork pool under real signals, and parents that vanish."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudq.errors import ImproperlyConfigured
from cloudq.pools.base import Died, Finished, Returned, RunnerSpec, TimedOut
from cloudq.pools.prefork import PreforkPool
from cloudq.testing.contracts.pool import Ends

RUNNER = """
import ctypes, os, signal, subprocess, sys, threading, time

class Unreadable:
    def __reduce__(self):
        return int, ("not a number",)

class Runner:
    def __init__(self, log=None, fail_if=None):
        self.log = log
        if fail_if and os.path.exists(fail_if):
            raise RuntimeError("the database of the app is away")

    def run(self, job, watch):
        kind, *rest = job
        return getattr(self, kind)(watch, *rest)

    def pid(self, watch):
        return os.getpid()

    def thread(self, watch):
        return threading.current_thread() is threading.main_thread()

    def sleep(self, watch, seconds, soft=None, hard=None):
        watch.begin(soft, hard)
        try:
            time.sleep(seconds)
        finally:
            watch.end()
        return "slept"

    def settles(self, watch, hard, seconds):
        watch.begin(None, hard)
        watch.end()
        time.sleep(seconds)
        return "settled"

    def segfault(self, watch):
        ctypes.string_at(0)

    def size(self, watch, job):
        return len(job)

    def unreadable(self, watch):
        return Unreadable()

    def family(self, watch, path):
        child = subprocess.Popen(["sleep", "60"])
        with open(path, "w") as file:
            file.write(str(child.pid))
        watch.begin(None, 0.2)
        time.sleep(60)

    def sigterm_default(self, watch):
        child = subprocess.Popen(["sleep", "60"])
        child.terminate()
        return child.wait(5)

    def close_everything(self, watch):
        os.closerange(3, 256)
        time.sleep(60)

    def close(self):
        if self.log:
            with open(self.log, "a") as file:
                file.write(f"closed {os.getpid()}\\n")

def make(*args):
    return Runner(*args)
"""


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that only sys.path leads to."""
    (tmp_path / "prefork_app.py").write_text(RUNNER)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.fixture(params=["spawn", "forkserver"])
def make(request: pytest.FixtureRequest, app: Path) -> Iterator[Callable[..., PreforkPool]]:
    made: list[PreforkPool] = []

    def started(size: int = 2, args: tuple[Any, ...] = (), **options: Any) -> PreforkPool:
        pool = PreforkPool(size, start_method=request.param, **options)
        made.append(pool)
        pool.start(RunnerSpec("prefork_app:make", args))
        return pool

    yield started
    for pool in made:
        pool.stop(0.0)


def eventually(check: Callable[[], bool], seconds: float = 15.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if check():
            return True
        time.sleep(0.02)
    return False


def gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_segmentation_fault_costs_one_job_and_neighbours_keep_their_process(
    make: Callable[..., PreforkPool],
) -> None:
    pool = make(2)
    neighbour, dying, after = Ends(), Ends(), Ends()
    pool.submit(("sleep", 0.5), neighbour)
    before = set(pool.pids)
    pool.submit(("segfault",), dying)

    assert dying.wait() == [Died("killed by signal 11 (SIGSEGV)")]
    assert neighbour.wait() == [Finished("slept")]
    assert eventually(lambda: len(pool.pids) == 2)
    assert len(before & set(pool.pids)) == 1
    for _ in range(4):
        pool.submit(("thread",), after)
    assert after.wait(4) == [Finished(True)] * 4


def test_an_idle_child_that_is_killed_is_replaced_and_no_job_is_lost(
    make: Callable[..., PreforkPool],
) -> None:
    pool = make(2)
    for _ in range(3):
        with contextlib.suppress(ProcessLookupError):  # the one before may not be buried yet
            os.kill(pool.pids[0], signal.SIGKILL)
        ends = Ends()
        for _ in range(6):
            pool.submit(("pid",), ends)
        got = ends.wait(6)
        # a job may have been in the hands of the one that died; none may vanish
        assert all(isinstance(end, Finished | Died) for end in got)
        assert sum(isinstance(end, Died) for end in got) <= 1
    assert eventually(lambda: len(pool.pids) == 2)


def test_a_hard_limit_kills_a_child_in_a_c_call_and_the_programs_it_started(
    make: Callable[..., PreforkPool], app: Path
) -> None:
    pool = make(1)
    ends = Ends()
    started = time.monotonic()
    pool.submit(("family", str(app / "pid")), ends)

    assert ends.wait() == [TimedOut(0.2)]
    assert time.monotonic() - started < 30
    assert eventually(lambda: gone(int((app / "pid").read_text())))


def test_a_hard_limit_does_not_count_what_comes_after_the_user_code(
    make: Callable[..., PreforkPool],
) -> None:
    ends = Ends()
    make(1).submit(("settles", 0.1, 0.5), ends)

    assert ends.wait() == [Finished("settled")]


def test_a_soft_limit_interrupts_a_sleep(make: Callable[..., PreforkPool]) -> None:
    ends = Ends()
    started = time.monotonic()
    make(1).submit(("sleep", 60, 0.2, 30), ends)

    [end] = ends.wait()
    assert isinstance(end, Died)  # this runner lets it through, which a runner promises not to do
    assert "SoftTimeLimitExceeded" in end.detail
    assert time.monotonic() - started < 30


def test_big_and_unreadable_things_end_in_words_not_in_a_hang(make: Callable[..., PreforkPool]) -> None:
    pool = make(1)
    ends = Ends()
    pool.submit(("size", os.urandom(8 << 20)), ends)
    assert ends.wait() == [Finished(8 << 20)]

    pool.submit(("size", lambda: None), ends)
    assert isinstance(end := ends.wait(2)[1], Died)
    assert not end.started
    assert "cannot be pickled" in end.detail

    pool.submit(("unreadable",), ends)
    assert isinstance(end := ends.wait(3)[2], Died)
    assert "the reply cannot be read here" in end.detail

    pool.submit(("pid",), ends)
    assert isinstance(ends.wait(4)[3], Finished)


def test_a_child_that_cuts_its_own_line_is_killed_and_replaced(make: Callable[..., PreforkPool]) -> None:
    pool = make(1)
    ends = Ends()
    pool.submit(("close_everything",), ends)
    pool.submit(("pid",), ends)

    first, second = ends.wait(2)
    assert isinstance(first, Died)
    assert "closed its connection" in first.detail
    assert isinstance(second, Finished)


def test_ctrl_c_and_sigterm_to_children_are_the_parents_business(make: Callable[..., PreforkPool]) -> None:
    pool = make(1)
    ends = Ends()
    pool.submit(("sleep", 0.6), ends)
    time.sleep(0.2)
    [pid] = pool.pids
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(pid, number)

    assert ends.wait() == [Finished("slept")]
    pool.submit(("sigterm_default",), ends)  # but programs that tasks start die of theirs as usual
    assert ends.wait(2)[1] == Finished(-signal.SIGTERM)
    assert pool.pids == [pid]


def test_stop_lets_children_close_their_runner_and_leaves_none(
    make: Callable[..., PreforkPool], app: Path
) -> None:
    pool = make(2, (str(app / "log"),))
    pids = pool.pids
    running, waiting = Ends(), Ends()
    for _ in range(2):
        pool.submit(("sleep", 0.3), running)
    pool.submit(("pid",), waiting)

    pool.stop(10.0)

    assert running.got == [Finished("slept")] * 2
    assert waiting.got == [Returned()]
    assert sorted((app / "log").read_text().split()[1::2]) == sorted(map(str, pids))
    assert all(gone(pid) for pid in pids)


def test_the_pool_shrinks_and_grows_without_disturbing_what_runs(make: Callable[..., PreforkPool]) -> None:
    pool = make(3)
    ends = Ends()
    for _ in range(3):
        pool.submit(("sleep", 0.5), ends)
    pool.resize(1)

    assert ends.wait(3) == [Finished("slept")] * 3
    assert eventually(lambda: len(pool.pids) == 1)
    pool.resize(2)
    assert eventually(lambda: len(pool.pids) == 2)


def test_an_error_of_the_app_is_told_at_the_start_with_its_place(
    make: Callable[..., PreforkPool], app: Path
) -> None:
    (app / "away").touch()
    with pytest.raises(
        ImproperlyConfigured, match=r"the database of the app is away \(.*prefork_app.py:\d+\)"
    ):
        make(2, (None, str(app / "away")))


def test_replacements_that_cannot_start_are_tried_again_with_pauses_until_one_can(
    make: Callable[..., PreforkPool], app: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make(1, (None, str(app / "away")))
    (app / "away").touch()
    ends = Ends()
    with caplog.at_level(logging.ERROR, "cloudq.pools"):
        os.kill(pool.pids[0], signal.SIGKILL)
        assert eventually(lambda: sum("cannot start" in r.getMessage() for r in caplog.records) >= 2)
    tries = sum("cannot start" in r.getMessage() for r in caplog.records)
    pool.submit(("thread",), ends)
    (app / "away").unlink()

    assert ends.wait(timeout=30) == [Finished(True)]
    assert tries <= 3


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.parametrize("busy", [True, False])
def test_kill_minus_9_of_the_parent_leaves_no_orphans(app: Path, method: str, busy: bool) -> None:
    # A script without an `if __name__ == "__main__"` guard: children do not run it again.
    (app / "parent.py").write_text(f"""
import sys, time
sys.path.insert(0, {str(app)!r})
from cloudq.pools.base import RunnerSpec
from cloudq.pools.prefork import PreforkPool
pool = PreforkPool(2, start_method={method!r})
pool.start(RunnerSpec("prefork_app:make"))
if {busy}:
    for _ in range(2):
        pool.submit(("sleep", 600), print)
print(*pool.pids, flush=True)
time.sleep(600)
""")
    parent = subprocess.Popen([sys.executable, str(app / "parent.py")], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.kill()
    parent.wait()
    parent.stdout.close()

    assert eventually(lambda: all(gone(pid) for pid in pids)), pids


def test_a_large_parent_does_not_make_its_children_look_large(make: Callable[..., PreforkPool]) -> None:
    ballast = bytearray(os.urandom(1)) * (400 << 20)
    pool = make(1, max_memory_per_child=300_000)
    ends = Ends()
    for _ in range(3):
        pool.submit(("pid",), ends)

    assert len({end.reply for end in ends.wait(3)}) == 1  # type: ignore[union-attr]
    assert len(ballast) > 0


def test_many_threads_may_submit_while_children_die(make: Callable[..., PreforkPool]) -> None:
    pool = make(2)
    ends = Ends()

    def submit() -> None:
        for n in range(40):
            pool.submit(("segfault",) if n == 20 else ("thread",), ends)

    threads = [threading.Thread(target=submit) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    got = ends.wait(120, timeout=60)
    assert len(got) == 120
    assert sum(end == Finished(True) for end in got) == 117
