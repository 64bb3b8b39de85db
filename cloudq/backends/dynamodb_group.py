"""First writes of several threads in one BatchExecuteStatement, without giving up their conditions.

A batch only ever *adds* items whose keys are free (PartiQL ``INSERT``). What it does not confirm, for whatever
reason (the key is there, the item was throttled, the answer was lost, the call is not allowed), its own caller
writes by itself with PutItem, under its full condition and with the same version: if the batch had written it
after all, that is recognised.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cloudq.aws.port import Call
from cloudq.clock import Clock
from cloudq.errors import OperationalError
from cloudq.joint import Joint, Letter

logger = logging.getLogger("cloudq.backends")

#: Statements in one call, and their values' bytes together (a call may have 16 MB; this much is quick).
MOST: Final = 25
ROOM: Final = 262_144
#: Seconds without batches after one that failed as a whole.
AWAY: Final = 60.0

Item = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True, eq=False)
class First:
    """A write that adds an item. ``alone()`` does it by itself."""

    item: Item
    alone: Callable[[], None]


class FirstWrites:
    """Groups what several threads write at once; one per backend and process."""

    def __init__(self, table: str, call: Callable[[Call], Mapping[str, Any]], clock: Clock) -> None:
        self._table = table
        self._call = call
        self._clock = clock
        self._not_before = 0.0
        self._joint: Joint[First] = Joint(self._deliver, lambda: (MOST, ROOM), _Interrupted)

    def __len__(self) -> int:
        """Writes that wait for the call under way."""
        return len(self._joint)

    def write(self, first: First, size: int) -> None:
        """Returns once the item is there. Raises what ``alone()`` does."""
        if size > ROOM or self._clock.monotonic() < self._not_before:
            first.alone()
            return
        try:
            done = self._joint.do(first, size)
        except _Interrupted:
            done = False
        if not done:
            first.alone()

    def _deliver(self, letters: list[Letter[First]]) -> None:
        if len(letters) == 1:
            letters[0].content.alone()
            letters[0].succeed(True)
            return
        batch: dict[tuple[str, str], Letter[First]] = {}
        for letter in letters:  # DynamoDB refuses a batch that names an item twice
            item = letter.content.item
            if batch.setdefault((item["pk"]["S"], item["sk"]["S"]), letter) is not letter:
                letter.succeed(False)
        confirmed = self._insert([each.content.item for each in batch.values()])
        for letter, done in zip(batch.values(), confirmed, strict=True):
            letter.succeed(done)

    def _insert(self, items: Sequence[Item]) -> list[bool]:
        """Which of them the batch has surely written."""
        params = {"Statements": [_statement(self._table, each) for each in items]}
        try:
            answers = self._call(Call("dynamodb", "BatchExecuteStatement", params)).get("Responses", ())
        except OperationalError as error:
            self._not_before = self._clock.monotonic() + AWAY
            logger.warning(
                "writing %d records at once: %s; each is written by itself for %g s. group_commit needs the permission "
                "dynamodb:PartiQLInsert on the table",
                len(items),
                error,
                AWAY,
            )
            return [False] * len(items)
        if len(answers) != len(items):
            return [False] * len(items)
        return ["Error" not in each for each in answers]


class _Interrupted(Exception):
    """The thread that wrote for others was struck down: nobody knows what became of it."""


def _statement(table: str, item: Item) -> dict[str, Any]:
    fields = ", ".join(f"'{name}': ?" for name in item)
    return {"Statement": f'INSERT INTO "{table}" VALUE {{{fields}}}', "Parameters": list(item.values())}
