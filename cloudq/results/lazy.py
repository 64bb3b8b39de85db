"""Results that are made when they are looked at: a group of a hundred thousand members costs no memory here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload


class LazyResults(Sequence[Any]):
    """``count`` results in a row: those in ``own`` by position, all others made by ``make(position)``.

    Two looks at one position give two equal results, each of which asks the store for itself.
    """

    def __init__(self, make: Callable[[int], Any]) -> None:
        self._make = make
        self._count = 0
        self._own: dict[int, Any] = {}

    def add(self, result: Any) -> None:
        """One more; None: one that ``make`` makes."""
        if result is not None:
            self._own[self._count] = result
        self._count += 1

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        places = range(self._count)[index]
        return self._at(places) if isinstance(places, int) else [self._at(each) for each in places]

    def __iter__(self) -> Iterator[Any]:
        return (self._at(place) for place in range(self._count))

    def _at(self, place: int) -> Any:
        found = self._own.get(place)
        return self._make(place) if found is None else found

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == each for mine, each in zip(self, other, strict=True))

    def __hash__(self) -> int:
        raise TypeError("a row of results is not hashable")
