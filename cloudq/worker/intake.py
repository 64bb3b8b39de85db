"""What a worker consumes: queues with their share, as written on the command line.

``a,b`` share alike; ``a=8,b=2`` run at most 8 and 2 at once; ``a:3,b:1`` get places three to one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cloudq.errors import ImproperlyConfigured
from cloudq.priorities import RATIO, siblings
from cloudq.worker.credit import ORDERS

_ENTRY: Final = re.compile(r"(?P<name>[^=:\s]+)(=(?P<most>\d+))?(:(?P<weight>\d+(\.\d+)?))?")


@dataclass(frozen=True, slots=True)
class Intake:
    """One queue. ``most``: messages of it that the worker holds at once; ``weight``: its share."""

    queue: str
    most: int | None = None
    weight: float | None = None
    #: The queue whose priorities it is part of: what limits one, limits all of them together.
    family: str | None = None


def parse(entries: Sequence[str]) -> list[Intake]:
    """``["a=8", "b:2"]`` to intakes, each queue once. Raises ImproperlyConfigured."""
    found: dict[str, Intake] = {}
    for entry in entries:
        match = _ENTRY.fullmatch(entry)
        if match is None:
            raise ImproperlyConfigured(
                f"queue {entry!r} cannot be read: write NAME, NAME=CONCURRENCY, NAME:WEIGHT or "
                "NAME=CONCURRENCY:WEIGHT, such as --queue mail=2,reports:3"
            )
        name = match["name"]
        most = int(match["most"]) if match["most"] else None
        weight = float(match["weight"]) if match["weight"] else None
        if most == 0 or weight == 0:
            raise ImproperlyConfigured(
                f"queue {entry!r}: a queue that may run nothing is not consumed; leave it out instead"
            )
        intake = Intake(name, most, weight)
        if found.setdefault(name, intake) != intake:
            raise ImproperlyConfigured(f"queue {name!r} is given twice, and differently")
    return list(found.values())


def with_siblings(intakes: Sequence[Intake], priorities: Mapping[str, Any], order: str) -> list[Intake]:
    """Each queue together with the siblings that priorities give it, urgent ones first.

    In strict order one is consumed while those before it are empty; otherwise a sibling gets several times the places
    of the next lower one, so that each gets something. A queue's concurrency is that of all its siblings
    together. What is named itself keeps what it was given.
    """
    named = {each.queue for each in intakes}
    found: list[Intake] = []
    for each in intakes:
        names = siblings(priorities, each.queue)
        if len(names) == 1:
            found.append(each)
            continue
        for rank, name in enumerate(names):
            if name != each.queue and name in named:
                continue
            weight = None if order == "strict" else (each.weight or 1.0) / RATIO**rank
            found.append(Intake(name, each.most, weight, each.queue))
    return found


def order_of(intakes: Sequence[Intake], order: str) -> str:
    """``fair``, ``strict`` or ``weighted``: what the setting says, or the weights imply.

    Raises ImproperlyConfigured when the two contradict each other.
    """
    if order not in ORDERS:
        near = difflib.get_close_matches(order, ORDERS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ImproperlyConfigured(f"worker_queue_order is one of {', '.join(ORDERS)}, not {order!r}{hint}")
    weighted = [each.queue for each in intakes if each.weight is not None]
    if weighted and order == "strict":
        raise ImproperlyConfigured(
            f"queue {weighted[0]!r} has a weight, but the order is strict: in strict order a queue gets "
            "what those before it leave; drop one of the two"
        )
    if order == "weighted" and not weighted:
        raise ImproperlyConfigured(
            "worker_queue_order is weighted, but no queue has a weight: write --queue a:3,b:1"
        )
    return "weighted" if weighted else order


def concurrency_of(intakes: Sequence[Intake]) -> int | None:
    """The worker's concurrency when every queue says its own: their sum; else None."""
    numbers = [each.most for each in intakes if each.most is not None]
    return sum(numbers) if numbers and len(numbers) == len(intakes) else None
