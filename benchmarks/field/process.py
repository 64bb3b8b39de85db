"""Processes: started in groups of their own, looked at from outside, ended with all their children."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1
#: Seconds a process has after SIGTERM.
PATIENCE = 3.0


def _begin(core: int | None) -> None:
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if core is not None:
        os.sched_setaffinity(0, {core})


@contextmanager
def started(
    command: list[str], env: Mapping[str, str], log: Path, core: int | None = None, **streams: Any
) -> Iterator[subprocess.Popen[str]]:
    """Run a command until the block ends; then its whole group is ended. Its errors go to ``log``; it and
    all that it starts get that ``core`` only."""
    with log.open("a") as errors:
        process = subprocess.Popen(
            command,
            env=dict(env),
            stderr=errors,
            text=True,
            start_new_session=True,
            preexec_fn=partial(_begin, core),
            **{"stdin": subprocess.DEVNULL, "stdout": errors, **streams},
        )
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[str]) -> None:
    """SIGTERM to the group, SIGKILL to what is left of it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
    for stream in (process.stdin, process.stdout):
        _close(stream)


def _close(stream: IO[str] | None) -> None:
    if stream is not None:
        with suppress(OSError):
            stream.close()


def tree(pid: int) -> list[int]:
    """The process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def cpu_seconds(pids: list[int]) -> float:
    """CPU that these processes have used, all threads, to the nanosecond (Linux)."""
    # clock_getcpuclockid(3): a process's CPU clock is its inverted id, shifted, with CPUCLOCK_SCHED
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


def memory(pids: list[int]) -> dict[str, float]:
    """Megabytes: ``rss`` of the largest process, ``pss`` of all (shared pages divided among their users)."""
    rss, pss = [0.0], 0.0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name == "Rss":
                rss.append(float(rest.split()[0]) * 1024 / 1e6)
            elif name == "Pss":
                pss += float(rest.split()[0]) * 1024 / 1e6
    return {"rss": max(rss), "pss": pss}
