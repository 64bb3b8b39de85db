"""What declaring one task adds to starting Python."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence

from benchmarks.field.contestants.roster import Contestant
from benchmarks.field.figures import Figures
from benchmarks.field.ground import Ground

TIMES = 7


def _started(ground: Ground, contestant: Contestant, code: str) -> float:
    env = ground.environment(contestant, "imports")
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], env=env, check=True, cwd=ground.folder, timeout=30)
    return time.perf_counter() - began


def measure(ground: Ground, contestants: Sequence[Contestant], figures: Figures) -> None:
    """Milliseconds over a bare interpreter, each the least of several, in turns."""
    for _ in range(TIMES):
        bare = min(_started(ground, contestants[0], "pass") for _ in range(2))
        for each in contestants:
            took = _started(ground, each, each.declares)
            figures.add(each.key, "imports", max(0.0, took - bare) * 1e3)
