"""The contest itself, tiny: the command runs, measures, writes, and leaves nothing behind (benchmarks/field)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.field import process

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "benchmarks.field", "--tasks", "100", "--measures", "throughput")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the contest reads Linux's CPU clocks")


def contest(folder: Path, options: Sequence[str]) -> subprocess.Popen[str]:
    """Started with ``folder`` as TMPDIR, which all its processes inherit."""
    return subprocess.Popen(
        [*COMMAND, *options],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def left_of(folder: Path) -> list[str]:
    """Processes of that contest that run after it; those that are just ending get a while."""
    mark = f"TMPDIR={folder}\0".encode()
    deadline = time.monotonic() + 30
    while True:
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if mark in (entry / "environ").read_bytes():
                        found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
                except OSError:
                    continue
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def test_a_tiny_contest_measures_cloudq_and_the_bare_loop_and_ends_all_it_started(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"

    running = contest(tmp_path, ["--only", "http,cloudq", "--rounds", "1", "--json", str(figures)])
    shown, said = running.communicate(timeout=100)

    assert running.returncode == 0, said
    found = json.loads(figures.read_text())
    assert found["troubles"] == []
    for key in ("http", "cloudq"):
        assert found["best"][key]["consume"] > 0
        assert found["best"][key]["publish"] > 0
        assert found["best"][key]["rss"] > 1
        assert found["calls_per_task"][key]["bulk"]["SendMessageBatch"] == pytest.approx(0.1)
        assert found["calls_per_task"][key]["publish"]["SendMessage"] == pytest.approx(1)
    assert "| consume, µs CPU |" in shown
    assert left_of(tmp_path) == []


def test_on_one_core_contestants_and_server_keep_apart(tmp_path: Path) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is only one core here")
    running = contest(tmp_path, ["--only", "http", "--rounds", "1000", "--one-core"])
    assert running.stderr is not None
    assert "round 1, throughput: bare HTTP loop" in running.stderr.readline()
    try:
        places: dict[str, set[int]] = {"server": set(), "contestant": set()}
        deadline = time.monotonic() + 60
        while not all(places.values()) and time.monotonic() < deadline:
            for pid in process.tree(running.pid)[1:]:
                with contextlib.suppress(OSError):
                    words = Path(f"/proc/{pid}/cmdline").read_bytes()
                    which = "server" if b"benchmarks.field.server" in words else "contestant"
                    places[which] |= os.sched_getaffinity(pid)
            time.sleep(0.05)
    finally:
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=60)

    assert len(places["contestant"]) == 1
    assert places["server"]
    assert not places["server"] & places["contestant"]


def test_an_interrupted_contest_ends_what_it_started_and_writes_nothing(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    running = contest(tmp_path, ["--only", "http", "--rounds", "1000", "--json", str(figures)])
    assert running.stderr is not None
    assert "round 1, throughput: bare HTTP loop" in running.stderr.readline()

    running.send_signal(signal.SIGTERM)
    _, said = running.communicate(timeout=60)

    assert running.returncode == 2
    assert "interrupted" in said
    assert not figures.exists()
    assert left_of(tmp_path) == []
