"""What was measured: for each contestant and measure all rounds' values, of which the best counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(frozen=True)
class Measure:
    """One column. ``least``: is less better? ``digits`` after the point."""

    key: str
    title: str
    unit: str
    least: bool = True
    digits: int = 0


MEASURES: Final = (
    Measure("publish", "single send", "µs CPU"),
    Measure("bulk", "bulk send", "µs CPU"),
    Measure("consume", "consume", "µs CPU"),
    Measure("rate", "consume", "tasks/s", least=False),
    Measure("slow_rate", "with 10 ms on every call", "tasks/s", least=False),
    Measure("results", "consume, result in DynamoDB", "µs CPU"),
    Measure("latency", "send to start, p50", "ms", digits=2),
    Measure("pss", "memory, all processes", "MB"),
    Measure("rss", "memory, largest process", "MB"),
    Measure("soak", "memory while it runs very many tasks", "MB", digits=1),
    Measure("idle", "idle", "calls/min", digits=1),
    Measure("idle_cpu", "idle", "% CPU", digits=2),
    Measure("imports", "declaring a task", "ms"),
    Measure("chord", "chord, worker", "µs CPU/member"),
    Measure("chord_wait", "chord of {members}, until its result", "s", digits=2),
)
BY_KEY: Final = {each.key: each for each in MEASURES}


@dataclass
class Figures:
    """``values[contestant][measure]``: one a round. ``calls[contestant][phase]``: per task, by operation."""

    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    calls: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    #: What went wrong, in sentences.
    troubles: list[str] = field(default_factory=list)
    #: Machine, versions, sizes: what one needs to judge the rest.
    about: dict[str, Any] = field(default_factory=dict)

    def add(self, contestant: str, measure: str, value: float) -> None:
        self.values.setdefault(contestant, {}).setdefault(measure, []).append(value)

    def best(self, contestant: str, measure: str) -> float | None:
        """The least of the rounds, or the greatest where more is better; None when not measured."""
        found = self.values.get(contestant, {}).get(measure)
        if not found:
            return None
        return min(found) if BY_KEY[measure].least else max(found)

    def ratio(self, measure: str, over: str, under: str) -> float | None:
        """How many times as much ``over`` has as ``under``, each at its best."""
        a, b = self.best(over, measure), self.best(under, measure)
        return None if a is None or not b else a / b

    def count(self, contestant: str, phase: str, calls: dict[str, float], tasks: int) -> None:
        """Keep a phase's calls per task; the round with fewest stands."""
        found = {name: amount / tasks for name, amount in calls.items() if amount}
        known = self.calls.setdefault(contestant, {}).get(phase)
        if known is None or total(found) < total(known):
            self.calls[contestant][phase] = found

    def as_json(self) -> dict[str, Any]:
        best = {
            name: {key: self.best(name, key) for key in measured} for name, measured in self.values.items()
        }
        return {
            "about": self.about,
            "best": best,
            "rounds": self.values,
            "calls_per_task": self.calls,
            "troubles": self.troubles,
        }

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Figures:
        return cls(found["rounds"], found["calls_per_task"], found["troubles"], found["about"])


def total(calls: dict[str, float]) -> float:
    """The calls among what was counted (operations are written with a capital)."""
    return sum(amount for name, amount in calls.items() if name[0].isupper())


def difference(later: dict[str, float], earlier: dict[str, float]) -> dict[str, float]:
    """What was counted in between."""
    return {name: amount - earlier.get(name, 0) for name, amount in later.items()}
