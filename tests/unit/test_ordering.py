"""Slow proofs are spread among quick tests, and nothing is lost on the way."""

from __future__ import annotations

import itertools
import random

from ordering import LONG, mixed

#: (module, number, slow, time limit)
Item = tuple[str, int, bool, float]


def order(items: list[Item]) -> list[Item]:
    return mixed(items, lambda i: i[2], lambda i: i[3], lambda i: i[0])


def test_every_test_is_run_once_whatever_they_are() -> None:
    rng = random.Random(4)
    for _ in range(300):
        items = [
            (
                f"m{rng.randrange(6)}",
                n,
                rng.random() < rng.choice((0.0, 0.2, 1.0)),
                rng.choice((0.0, 90.0, 900.0)),
            )
            for n in range(rng.randrange(40))
        ]
        items.sort(key=lambda i: i[0])
        assert sorted(order(items)) == sorted(items)


def test_quick_tests_alone_keep_their_order() -> None:
    items = [(f"m{n // 3}", n, False, 0.0) for n in range(12)]
    assert order(items) == items


def test_long_proofs_begin_at_once_and_the_others_are_spread_between_whole_modules() -> None:
    quick = [(f"m{n // 10:02}", n, False, 0.0) for n in range(1000)]
    slow = [("proofs", n, True, LONG if n == 7 else 60.0) for n in range(21)]
    found = order([*quick, *slow])
    assert found[0] == ("proofs", 7, True, LONG)
    places = [n for n, each in enumerate(found) if each[2]]
    assert max(b - a for a, b in itertools.pairwise(places)) <= 60
    assert len(found) - places[-1] >= 150  # quick ones alone at the end
    between = [each for each in found if not each[2]]
    assert between == quick
    assert all(n == 0 or found[n - 1][0] != found[n + 1][0] for n in places if n + 1 < len(found))
