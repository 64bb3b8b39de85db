"""How many tasks a worker runs at once where nobody says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

#: The CPU time that a container may use in a period, both in microseconds, or "max" (cgroup v2).
_QUOTA: Final = "/sys/fs/cgroup/cpu.max"


def default_concurrency(pool: str) -> int:
    """Cores for processes, more for pools that mostly wait."""
    if pool == "solo":
        return 1
    if pool == "threads":
        return 16
    if pool == "asyncio":
        return 100
    return cores()


def cores(quota: str = _QUOTA) -> int:
    """The cores that this process may use, by affinity and by the container's limit; at least 1."""
    if hasattr(os, "sched_getaffinity"):
        found = len(os.sched_getaffinity(0))
    else:
        found = os.cpu_count() or 1
    try:
        allowed, period = Path(quota).read_text().split()
        return max(1, min(found, int(allowed) // int(period)))
    except (OSError, ValueError):  # no such file, or "max": no limit
        return found
