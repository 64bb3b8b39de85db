"""The contest itself, tiny: the command runs, measures, writes, and leaves nothing behind (benchmarks/field)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the contest reads Linux's CPU clocks")


def processes_of_the_contest() -> list[str]:
    """Command lines of what runs under ``benchmarks.field``."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                where = os.readlink(entry / "cwd")
            except OSError:
                continue
            if "benchmarks.field" in line and where == str(ROOT):
                found.append(line)
    return found


def test_a_tiny_contest_measures_cloudq_and_the_bare_loop_and_ends_all_it_started(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.field", "--only", "http,cloudq", "--tasks", "200"]

    done = subprocess.run(
        [*command, "--rounds", "1", "--measures", "throughput", "--json", str(figures)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )

    assert done.returncode == 0, done.stderr
    found = json.loads(figures.read_text())
    assert found["troubles"] == []
    for key in ("http", "cloudq"):
        assert found["best"][key]["consume"] > 0
        assert found["best"][key]["publish"] > 0
        assert found["best"][key]["rss"] > 1
        assert found["calls_per_task"][key]["bulk"]["SendMessageBatch"] == pytest.approx(0.1)
        assert found["calls_per_task"][key]["publish"]["SendMessage"] == pytest.approx(1)
    assert "| consume, µs CPU |" in done.stdout
    assert not processes_of_the_contest()
