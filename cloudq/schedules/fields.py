"""One field of a crontab: text, number or numbers to the set of values it allows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from cloudq.errors import ScheduleError

_DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_DAY_NAMES: Final = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH_NAMES: Final = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
]


@dataclass(frozen=True)
class Kind:
    """What a field may hold: ``first`` to ``last``, and names for some of it."""

    name: str
    first: int
    last: int
    names: tuple[tuple[str, int], ...] = ()
    #: Sunday may be written 7 as well.
    sunday: bool = False


def _numbered(first: int, *lists: Iterable[str]) -> tuple[tuple[str, int], ...]:
    return tuple((name, number) for each in lists for number, name in enumerate(each, first))


MINUTE: Final = Kind("minute", 0, 59)
HOUR: Final = Kind("hour", 0, 23)
DAY_OF_WEEK: Final = Kind("day_of_week", 0, 6, _numbered(0, _DAYS, _DAY_NAMES), sunday=True)
DAY_OF_MONTH: Final = Kind("day_of_month", 1, 31)
MONTH_OF_YEAR: Final = Kind("month_of_year", 1, 12, _numbered(1, _MONTHS, _MONTH_NAMES))


@dataclass(frozen=True)
class Field:
    """A field as it was written and what it allows."""

    text: str
    values: frozenset[int]

    @property
    def starred(self) -> bool:
        """Cron's word for "not restricted": it begins with a star, steps or not."""
        return self.text.startswith("*")


def parse(kind: Kind, spec: Any) -> Field:
    """Read ``5``, ``"*/15"``, ``"mon-fri"``, ``"1,3,10-20/2"``, ``[1, 15]``. Raises ScheduleError.

    A range may wrap around (``22-4``, ``fri-mon``), as in Celery. Steps count from the range's start.
    """
    if isinstance(spec, bool):
        raise _fault(kind, spec, "is a number, text, or several numbers")
    if isinstance(spec, int):
        return Field(str(spec), frozenset({_checked(kind, spec, spec)}))
    if isinstance(spec, str):
        text = spec.strip().lower()
        values = frozenset(value for part in text.split(",") for value in _part(kind, part.strip(), spec))
        return Field(text, values)
    if isinstance(spec, Iterable):
        values = frozenset(value for each in spec for value in _member(kind, each, spec))
        if not values:
            raise _fault(kind, spec, "allows nothing: give at least one value")
        return Field(",".join(str(value) for value in sorted(values)), values)
    raise _fault(kind, spec, "is a number, text, or several numbers")


def _member(kind: Kind, each: Any, spec: Any) -> frozenset[int]:
    if isinstance(each, bool) or not isinstance(each, int | str):
        raise _fault(kind, spec, f"has the member {each!r}, which is no number or text")
    return parse(kind, each).values


def _part(kind: Kind, part: str, spec: str) -> Iterable[int]:
    span, slash, step = part.partition("/")
    if not span:
        raise _fault(kind, spec, "has an empty part")
    if span == "*":
        values = list(range(kind.first, kind.last + 1))
    elif "-" in span[1:]:
        first, _, last = span.partition("-")
        values = _range(kind, _number(kind, first, spec), _number(kind, last, spec, end=True))
    elif slash:
        raise _fault(kind, spec, f"has a step without a range: write {span}-{kind.last}/{step}")
    else:
        values = [_number(kind, span, spec)]
    if not slash:
        return values
    if not step.isdecimal() or int(step) < 1:
        raise _fault(kind, spec, f"has the step {step!r}, which is no whole number from 1")
    return values[:: int(step)]


def _range(kind: Kind, first: int, last: int) -> list[int]:
    if last == 7 and kind.sunday:
        return [value % 7 for value in range(first, 8)]
    if last < first:
        return [*range(first, kind.last + 1), *range(kind.first, last + 1)]
    return list(range(first, last + 1))


def _number(kind: Kind, text: str, spec: str, end: bool = False) -> int:
    text = text.strip()
    if not text.isdecimal():
        for name, number in kind.names:
            if name == text:
                return number
        hint = ""
        if kind.names:
            import difflib

            near = difflib.get_close_matches(text, [name for name, _ in kind.names], 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
        raise _fault(kind, spec, f"has {text!r}, which is no value of it{hint}")
    number = int(text)
    if end and kind.sunday and number == 7:  # mon-7: until Sunday
        return 7
    return _checked(kind, number, spec)


def _checked(kind: Kind, number: int, spec: Any) -> int:
    if kind.sunday and number == 7:
        return 0
    if not kind.first <= number <= kind.last:
        raise _fault(kind, spec, f"goes from {kind.first} to {kind.last}")
    return number


def _fault(kind: Kind, spec: Any, says: str) -> ScheduleError:
    return ScheduleError(f"crontab: {kind.name}={spec!r} {says}")
