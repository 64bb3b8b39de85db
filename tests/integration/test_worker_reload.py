"""``cloudq worker --reload``: a worker process that starts anew when its modules change."""

import os
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import servers
from worker_processes import WorkerProcess, eventually

from cloudq import CloudQ

pytest.importorskip("watchfiles")

TASKS = """
    from cloudq import CloudQ
    import words

    app = CloudQ("reloading")

    @app.task
    def greet():
        return words.WORD

    @app.task
    def nap(path):
        import time
        open(path, "w").close()
        time.sleep(3)
        return "rested"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "reloading.py").write_text(textwrap.dedent(TASKS))
    (tmp_path / "words.py").write_text("WORD = 'one'\n")
    return tmp_path


@pytest.fixture
def app(folder: Path) -> Iterator[CloudQ]:
    url = f"sqlite:///{folder / 'q.db'}"
    with CloudQ("reloading", broker=url, backend=url) as made:
        yield made


@pytest.fixture
def worker(folder: Path, app: CloudQ) -> Iterator[WorkerProcess]:
    env = servers.environment(
        CLOUDQ_BROKER_URL=app.broker.url, CLOUDQ_RESULT_BACKEND=app.broker.url, PYTHONDONTWRITEBYTECODE="1"
    )
    command = [
        sys.executable,
        "-m",
        "cloudq",
        "worker",
        "-A",
        "reloading:app",
        "-P",
        "threads",
        "-c",
        "2",
        "--reload",
    ]
    with WorkerProcess(command, env, folder, folder / "worker.log") as started:
        started.wait_ready()
        yield started


def change(path: Path, text: str) -> None:
    """As editors do it: a new file in the old one's place."""
    path.with_suffix(".new").write_text(text)
    os.replace(path.with_suffix(".new"), path)


def starts(worker: WorkerProcess) -> int:
    return worker.text.count("ready: consuming")


def test_a_changed_module_is_used_and_running_tasks_finish_before(
    folder: Path, app: CloudQ, worker: WorkerProcess
) -> None:
    assert app.send_task("reloading.greet").get(timeout=30) == "one"
    pid = worker.pid
    running = app.send_task("reloading.nap", (str(folder / "began"),))
    eventually("it runs", (folder / "began").exists)
    change(folder / "words.py", "WORD = 'two'\n")
    eventually("it is noticed", lambda: "words.py has changed" in worker.text)
    assert running.get(timeout=30) == "rested"
    assert app.send_task("reloading.greet").get(timeout=30) == "two"
    assert starts(worker) == 2
    assert worker.pid == pid
    assert worker.stop() == 0


@pytest.mark.slow
def test_what_nobody_has_imported_may_change(folder: Path, app: CloudQ, worker: WorkerProcess) -> None:
    (folder / "other.py").write_text("X = 1\n")
    (folder / "notes.txt").write_text("later\n")
    time.sleep(1.0)
    assert app.send_task("reloading.greet").get(timeout=30) == "one"
    assert starts(worker) == 1
    assert worker.stop() == 0


def test_a_broken_module_is_waited_out(folder: Path, app: CloudQ, worker: WorkerProcess) -> None:
    change(folder / "words.py", "WORD = \n")
    eventually("it says what is wrong", lambda: "waiting for a change" in worker.text)
    assert "SyntaxError" in worker.text
    time.sleep(1.5)  # it has begun to watch: nothing shows that from outside
    change(folder / "words.py", "WORD = 'mended'\n")
    eventually("it starts anew", lambda: starts(worker) == 2)
    assert app.send_task("reloading.greet").get(timeout=30) == "mended"
    assert worker.stop() == 0
