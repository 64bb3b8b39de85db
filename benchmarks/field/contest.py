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
from benchmarks.field.measures import chords, idle, imports, results, slow, soak, throughput
from benchmarks.field.sizes import Sizes

#: What can be measured, in this order.
MEASURES: Final = ("throughput", "slow", "results", "chord", "imports", "idle")
#: Seconds that what comes after the rounds takes.
_REST: Final = 80.0
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
        "one_core": ground.core is not None,
        "load_before": load(),
        "tasks": sizes.whole,
        "members": sizes.members,
        "concurrency": ground.concurrency,
        "slow_concurrency": ground.slow_concurrency,
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
    for number in range(1, sizes.rounds + 1):
        turn = time.monotonic()
        _round(ground, contestants, sizes, figures, partial(_say_of_round, say, number), measures)
        figures.about["rounds"] = number
        spent, last = time.monotonic() - began, time.monotonic() - turn
        if number < sizes.rounds and spent + last + _REST * ("idle" in measures) > sizes.budget:
            say(f"{number} of {sizes.rounds} rounds took {spent:.0f} s: no time for another")
            break
    if "imports" in measures:
        say("import times")
        imports.measure(ground, contestants, figures)
    if "idle" in measures:
        say(f"idle workers, {sizes.idle_seconds:g} s")
        idle.measure(ground, contestants, sizes.idle_seconds, figures)
    if sizes.soak:
        for each in (each for each in contestants if each.pace >= 1):
            say(f"soak, {sizes.soak:,} tasks: {each.title}")
            attempt(figures, partial(soak.measure, ground, each, sizes.soak, figures, say))
    figures.about |= {"load_after": load(), "seconds": round(time.monotonic() - began)}


def _say_of_round(say: Say, number: int, line: str) -> None:
    say(f"round {number}, {line}")


def _round(
    ground: Ground,
    contestants: Sequence[Contestant],
    sizes: Sizes,
    figures: Figures,
    say: Say,
    measures: Collection[str],
) -> None:
    able = {
        "throughput": (throughput.measure, contestants),
        "slow": (slow.measure, contestants),
        "results": (results.measure, [each for each in contestants if each.results]),
        "chord": (chords.measure, [each for each in contestants if each.chords]),
    }
    for name in (name for name in able if name in measures):
        measure, those = able[name]
        for each in those:
            say(f"{name}: {each.title}")
            attempt(figures, partial(measure, ground, each, sizes, figures))


def attempt(figures: Figures, measure: Callable[[], None]) -> None:
    """Measure; what gets stuck is kept in words."""
    try:
        measure()
    except Stuck as error:
        figures.troubles.append(str(error))
