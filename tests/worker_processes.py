"""Real ``cloudq`` processes for tests: started, watched, signalled, and gone at the end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import servers

TESTS = Path(__file__).resolve().parent
#: Longest wait for anything that ought to happen, seconds.
PATIENCE = 45.0


def eventually(what: str, check: Callable[[], object], timeout: float = PATIENCE) -> None:
    """Wait until ``check()`` is true."""
    end = time.monotonic() + timeout
    while not check():
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout:g} s: {what}")
        time.sleep(0.01)


@dataclass(frozen=True)
class Run:
    """A line of the log that the tasks write."""

    what: str
    task_id: str
    pid: int
    at: float


class Scene:
    """A folder, a broker URL, a store URL: what workers and commands are started on."""

    def __init__(self, folder: Path, broker: str, backend: str, queue: str = "cloudq") -> None:
        self.folder = folder
        self.broker = broker
        self.backend = backend
        self.queue = queue
        self.log = folder / "runs.log"
        self._number = 0

    def env(self, **changes: str) -> dict[str, str]:
        return servers.environment(
            PYTHONPATH=str(TESTS),
            CLOUDQ_BROKER_URL=self.broker,
            CLOUDQ_RESULT_BACKEND=self.backend,
            CLOUDQ_TASK_DEFAULT_QUEUE=self.queue,
            CLOUDQ_TEST_LOG=str(self.log),
            NO_COLOR="1",
            COLUMNS="200",
            **changes,
        )

    def worker(self, *arguments: str, ready: bool = True, **env: str) -> WorkerProcess:
        """Start a worker; wait until it consumes."""
        self._number += 1
        command = [sys.executable, "-m", "cloudq", "worker", "-A", "worker_app:app", "-Q", self.queue]
        started = WorkerProcess(
            [*command, *arguments], self.env(**env), self.folder, self.folder / f"worker-{self._number}.log"
        )
        if ready:
            started.wait_ready()
        return started

    def function(self, *arguments: str, **env: str) -> WorkerProcess:
        """Start a function behind an event source mapping; wait until it polls."""
        self._number += 1
        command = [
            sys.executable,
            "-m",
            "cloudq",
            "lambda",
            "serve",
            "-A",
            "worker_app:app",
            "-Q",
            self.queue,
        ]
        started = WorkerProcess(
            [*command, *arguments], self.env(**env), self.folder, self.folder / f"function-{self._number}.log"
        )
        started.wait_ready("mapping")
        return started

    def cloudq(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "cloudq", *arguments],
            env=self.env(**env),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def runs(self, what: str | None = None, task_id: str | None = None) -> list[Run]:
        """What the tasks have noted so far; what children note of themselves only by its name."""
        if not self.log.exists():
            return []
        lines = [line.split(" ") for line in self.log.read_text().splitlines()]
        found = [Run(name, each, int(pid), float(at)) for name, each, pid, at in lines]
        return [
            run
            for run in found
            if (run.what == what or (what is None and not run.what.startswith("worker_process")))
            and (task_id is None or run.task_id == task_id)
        ]


class WorkerProcess:
    """One ``cloudq worker``. ``kill`` and ``stop`` may be called on one that has ended."""

    def __init__(self, command: Sequence[str], env: dict[str, str], folder: Path, log: Path) -> None:
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                env=env,
                cwd=folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=servers._die_with_parent if sys.platform == "linux" else None,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_ready(self, said: str = "ready") -> None:
        def ready() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"the worker ended with {self.process.returncode}:\n{self.text}")
            return said in self.text

        eventually(f"ready: {self.text}", ready)

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def children(self) -> list[int]:
        """Process ids of its direct children."""
        return [pid for pid, parent in parents().items() if parent == self.pid]

    def wait(self, timeout: float = PATIENCE) -> int:
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the worker does not end:\n{self.text[-4000:]}") from None

    def stop(self) -> int:
        """Warm shutdown; the exit code."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """SIGKILL, to it alone: what becomes of its children is part of the test."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def wipe_out(self) -> None:
        """End it and everything it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.wipe_out()


def parents() -> dict[int, int]:
    """Parent process ids of all processes, by process id."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True)
    return {int(pid): int(parent) for pid, parent in (line.split() for line in listed.stdout.splitlines())}


def alive(pid: int) -> bool:
    """Does the process run? A zombie does not."""
    listed = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return bool(listed.stdout.strip()) and not listed.stdout.strip().startswith("Z")


@contextlib.contextmanager
def sqlite_scene(folder: Path, **options: object) -> Iterator[Scene]:
    """A scene on one SQLite file. ``options`` are the URL's."""
    query = "&".join(f"{name}={value}" for name, value in options.items())
    url = f"sqlite:///{folder / 'proof.db'}" + (f"?{query}" if query else "")
    yield Scene(folder, url, url)
