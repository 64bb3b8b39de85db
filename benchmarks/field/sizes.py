"""How many tasks a round gives to whom: the slow ones fewer, so that all rounds are short."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.field.contestants.roster import Contestant


@dataclass(frozen=True)
class Sizes:
    """``whole``: the tasks that cloudq and the bare HTTP loop get."""

    whole: int = 10_000
    rounds: int = 3
    #: Parts of a round that are measured one by one.
    parts: int = 5
    members: int = 200
    idle_seconds: float = 60.0
    #: Seconds after which no other round is begun.
    budget: float = 360.0
    #: Tasks of the soak; 0: none.
    soak: int = 0

    @property
    def stamps(self) -> int:
        """Tasks sent one by one for the latency."""
        return min(40, self.whole // 20)

    @property
    def warm_up(self) -> int:
        return max(5, self.whole // 100)

    def tasks(self, contestant: Contestant) -> int:
        return max(20, int(self.whole * contestant.pace))

    def singles(self, contestant: Contestant) -> int:
        return max(10, int(self.whole * contestant.pace * 0.5 if contestant.pace < 0.2 else self.whole / 10))

    def slow_tasks(self, contestant: Contestant) -> int:
        return max(10, int(self.whole * contestant.slow_pace))
