"""In which order tests run when slow proofs and quick tests run together: what waits beside what computes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")

#: Proofs that may take longer than this, seconds, begin at once: nothing waits for them at the end.
LONG = 600.0
#: The last part of a run is quick tests alone, so that all processes end together.
QUICK_AT_THE_END = 0.2


def mixed(
    items: Sequence[T],
    slow: Callable[[T], bool],
    patience: Callable[[T], float],
    module: Callable[[T], object],
) -> list[T]:
    """The long proofs, then the slow ones spread among the modules of quick tests; equals keep their order.

    A slow proof is mostly processes that wait, a quick test mostly computes: side by side they fill the machine.
    Modules of quick tests stay whole: what comes between their tests would tear down what they share.
    ``patience`` is a test's time limit, ``module`` where it is from.
    """
    proofs = sorted(filter(slow, items), key=patience, reverse=True)
    found = [each for each in proofs if patience(each) >= LONG]
    left = proofs[len(found) :]
    modules = [list(each) for _, each in itertools.groupby(itertools.filterfalse(slow, items), module)]
    quick = sum(map(len, modules))
    share = len(left) / max(1.0, quick * (1.0 - QUICK_AT_THE_END))
    passed = given = 0
    for each in modules:
        passed += len(each)
        due = min(len(left), round(passed * share))
        found += [*left[given:due], *each]
        given = due
    return found + left[given:]
