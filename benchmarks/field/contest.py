"""The contest: contestants in turns, round after round, so that a busy moment hits all alike."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Final

from benchmarks.field.contestants.roster import Contestant
from benchmarks.field.figures import Figures
from benchmarks.field.ground import Ground, Stuck
from benchmarks.field.measures import chords, idle, imports, results, throughput
from benchmarks.field.sizes import Sizes

#: What can be measured, in this order.
MEASURES: Final = ("throughput", "results", "chord", "imports", "idle")
Say = Callable[[str], None]


def load() -> float:
    """How many processes want to run, over the last minute."""
    return round(os.getloadavg()[0], 1)


def about(ground: Ground, contestants: Sequence[Contestant], sizes: Sizes) -> dict[str, object]:
    """What one needs to know to judge the figures."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load_before": load(),
        "tasks": sizes.whole,
        "rounds": sizes.rounds,
        "members": sizes.members,
        "concurrency": ground.concurrency,
        "contestants": {each.key: {"title": each.title, "versions": each.versions()} for each in contestants},
    }


def hold(
    ground: Ground,
    contestants: Sequence[Contestant],
    sizes: Sizes,
    figures: Figures,
    say: Say,
    measures: Collection[str] = MEASURES,
) -> None:
    """The measures asked for; a contestant that gets stuck is named and its round left out."""
    began = time.monotonic()
    figures.about = about(ground, contestants, sizes)
    able = {
        "throughput": (throughput.measure, contestants),
        "results": (results.measure, [each for each in contestants if each.results]),
        "chord": (chords.measure, [each for each in contestants if each.chords]),
    }
    for number in range(1, sizes.rounds + 1):
        for name in (name for name in able if name in measures):
            measure, those = able[name]
            for each in those:
                say(
                    f"{time.monotonic() - began:4.0f} s, round {number} of {sizes.rounds}: {name}, {each.title}"
                )
                attempt(figures, partial(measure, ground, each, sizes, figures))
    if "imports" in measures:
        say("import times")
        imports.measure(ground, contestants, figures)
    if "idle" in measures:
        say(f"idle workers, {sizes.idle_seconds:g} s")
        idle.measure(ground, contestants, sizes.idle_seconds, figures)
    figures.about |= {"load_after": load(), "seconds": round(time.monotonic() - began)}


def attempt(figures: Figures, measure: Callable[[], None]) -> None:
    """Measure; what gets stuck is kept in words."""
    try:
        measure()
    except Stuck as error:
        figures.troubles.append(str(error))
