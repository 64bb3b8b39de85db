"""Workflows and what comes of them, as data: every way of running must agree with all of it.

``make(t, u)`` builds a signature: ``t`` has the tasks by name, ``u("x")`` makes an id of this run's own.
``gives`` is its value, or ``Fails`` with the error's class and a part of its text. ``also`` are values
of further ids (callbacks, errbacks).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from cloudq import chain, chord, chunks, group, xmap, xstarmap

Make = Callable[[SimpleNamespace, Callable[[str], str]], Any]


@dataclass(frozen=True)
class Fails:
    kind: str
    says: str = ""


@dataclass(frozen=True)
class Case:
    name: str
    make: Make
    gives: Any
    also: Mapping[str, Any] = field(default_factory=dict)


CASES: list[Case] = []


def case(name: str, gives: Any, make: Make, **also: Any) -> None:
    CASES.append(Case(name, make, gives, also))


OOPS = Fails("Oops", "failed with")
CHORD = Fails("ChordError", "raised Oops(")

# --- chains
case("chain of two", 6, lambda t, u: t.add.s(1, 2) | t.add.s(3))
case("chain of three", 60, lambda t, u: chain(t.add.s(1, 2), t.add.s(3), t.mul.s(10)))
case("chain of a list", 6, lambda t, u: chain([t.add.s(1, 2), t.add.s(3)]))
case("chain of a generator", 10, lambda t, u: chain(t.add.s(*((1, 1) if n == 0 else (2,))) for n in range(5)))
case("chain of one", 3, lambda t, u: chain(t.add.s(1, 2)))
case("chain of chains", 10, lambda t, u: chain(chain(t.add.s(1, 2), t.add.s(3)), chain(t.add.s(4))))
case("chain with an immutable step", 7, lambda t, u: t.add.s(1, 2) | t.const.si(7))
case("chain after an immutable step", 8, lambda t, u: t.add.s(1, 2) | t.const.si(7) | t.add.s(1))
case("chain of many", 31, lambda t, u: chain([t.add.s(1, 0), *[t.add.s(1) for _ in range(30)]]))
case("chain stops at the first failure", OOPS, lambda t, u: chain(t.fail.s(), t.add.s(1), t.add.s(2)))
case("chain fails in the middle", OOPS, lambda t, u: chain(t.add.s(1, 1), t.fail.s(), t.add.s(2)))
case("chain fails at its end", OOPS, lambda t, u: chain(t.add.s(1, 1), t.fail.s()))
case("keywords stay", [3, 5], lambda t, u: t.add.s(1, 2) | t.kw.s(y=5))
case("None goes on", None, lambda t, u: t.ident.s(None) | t.ident.s())
case("a list is one argument", [1, 2], lambda t, u: t.ident.s([1, 2]) | t.ident.s())
case("a mapping is one argument", {"a": 1}, lambda t, u: t.ident.s({"a": 1}) | t.ident.s())
case("a failing retry, then on", 5, lambda t, u: t.flaky.s(4, 2) | t.add.s(1))
case("retries in the middle", 5, lambda t, u: t.ident.s(4) | t.flaky.s(2) | t.add.s(1))
case("bitwise or with a chain", 7, lambda t, u: t.add.s(1, 1) | chain(t.add.s(2), t.add.s(3)))
case("chain leaves out an empty group", 3, lambda t, u: chain(t.add.s(1, 1), group([]), t.add.s(1)))
case("chain leaves out an empty chain", 3, lambda t, u: chain(t.add.s(1, 1), chain(), t.add.s(1)))

# --- groups
case("group", [0, 2, 4, 6], lambda t, u: group(t.add.s(i, i) for i in range(4)))
case("group of arguments", [2, 4], lambda t, u: group(t.add.s(1, 1), t.add.s(2, 2)))
case("group of one", [2], lambda t, u: group(t.add.s(1, 1)))
case("group of one in a list", [2], lambda t, u: group([t.add.s(1, 1)]))
case("group of chains", [4, 6], lambda t, u: group(t.add.s(1, 1) | t.mul.s(2), t.add.s(1, 2) | t.mul.s(2)))
case(
    "nested groups are flat",
    [11, 101, 1001, 2001],
    lambda t, u: group(t.add.si(1, 10), group(t.add.si(1, 100), group(t.add.si(1, 1000), t.add.si(1, 2000)))),
)
case(
    "group of chords",
    [3, 7],
    lambda t, u: group(
        chord([t.ident.s(1), t.ident.s(2)], t.total.s()), chord([t.ident.s(3), t.ident.s(4)], t.total.s())
    ),
)
case("group with a failure", OOPS, lambda t, u: group(t.add.s(1, 1), t.fail.s()))
case("empty group", [], lambda t, u: group([], app=t.app))
case("group at the end", [4, 5], lambda t, u: t.add.s(1, 2) | group(t.add.s(1), t.add.s(2)))
case(
    "group of a chain that ends in a group",
    [[1, 6], 9],
    lambda t, u: group(t.ident.s(1) | group(t.ident.s(), t.add.s(5)), t.ident.s(9)),
)
case("group drops empty chains", [1], lambda t, u: group(chain(), t.ident.s(1)))
case("group of 25", list(range(25)), lambda t, u: group(t.ident.s(i) for i in range(25)))
case("retries in a group", [1, 2, 3], lambda t, u: group(t.flaky.s(1, 1), t.flaky.s(2, 2), t.ident.s(3)))

# --- chords
case("chord", 12, lambda t, u: chord([t.add.s(i, i) for i in range(4)], t.total.s()))
case("chord of a generator", 12, lambda t, u: chord((t.add.s(i, i) for i in range(4)), t.total.s()))
case(
    "chord called with its body",
    12,
    lambda t, u: _with_body(chord([t.add.s(i, i) for i in range(4)]), t.total.s()),
)
case("chord of one keeps the list", [7], lambda t, u: chord([t.ident.s(7)], t.ident.s()))
case("chord of a group", 3, lambda t, u: chord(group(t.ident.s(1), t.ident.s(2)), t.total.s()))
case("chord of none", 0, lambda t, u: chord([], t.total.s(), app=t.app))
case("chord of none gives a list", [], lambda t, u: chord([], t.ident.s()))
case(
    "header in order",
    list(range(12)),
    lambda t, u: chord([t.flaky.s(i, i % 3) for i in range(12)], t.ident.s()),
)
case("immutable body", 4, lambda t, u: chord([t.ident.s(1)], t.ident.si(4)))
case("body with an argument", [[1, 2], 3], lambda t, u: chord([t.ident.s(1), t.ident.s(2)], t.collect.s(3)))
case("group | task is a chord", 3, lambda t, u: group(t.ident.s(1), t.ident.s(2)) | t.total.s())
case("group of one | task is no chord", 5, lambda t, u: group([t.ident.s(4)]) | t.add.s(1))
case(
    "a group in a chain becomes a header",
    10,
    lambda t, u: t.ident.s(1) | group(t.add.s(1), t.add.s(2), group(t.add.s(3))) | t.total.s() | t.add.s(1),
)
case(
    "group | group",
    [3, 13],
    lambda t, u: group(t.ident.s(1), t.ident.s(2)) | group(t.total.s(), t.total.s() | t.add.s(10)),
)
case("chord | task", 4, lambda t, u: chord([t.ident.s(1), t.ident.s(2)], t.total.s()) | t.add.s(1))
case(
    "chord | group",
    [4, 5],
    lambda t, u: chord([t.ident.s(1), t.ident.s(2)], t.total.s()) | group(t.add.s(1), t.add.s(2)),
)
case(
    "chord | chord",
    9,
    lambda t, u: (
        chord([t.ident.s(1), t.ident.s(2)], t.total.s()) | chord([t.add.s(1), t.add.s(2)], t.total.s())
    ),
)
case("body is a chain", 13, lambda t, u: chord([t.ident.s(1), t.ident.s(2)], t.total.s() | t.add.s(10)))
case(
    "body is a group",
    [3, [1, 2]],
    lambda t, u: chord([t.ident.s(1), t.ident.s(2)], group(t.total.s(), t.ident.s())),
)
case(
    "body is a chord",
    [[3, [1, 2]]],
    lambda t, u: chord([t.ident.s(1), t.ident.s(2)], chord([t.total.s(), t.ident.s()], t.collect.s())),
)
case(
    "chord in a header",
    [3, 9],
    lambda t, u: chord([chord([t.ident.s(1), t.ident.s(2)], t.total.s()), t.ident.s(9)], t.ident.s()),
)
case("chain in a header", [6, 9], lambda t, u: chord([t.add.s(1, 2) | t.add.s(3), t.ident.s(9)], t.ident.s()))
case(
    "a header's chain ends in a group",
    [1, 6, 9],
    lambda t, u: chord([t.ident.s(1) | group(t.ident.s(), t.add.s(5)), t.ident.s(9)], t.ident.s()),
)
case(
    "a group in a header is flat",
    [1, 2, 3],
    lambda t, u: chord([group(t.ident.s(1), t.ident.s(2)), t.ident.s(3)], t.ident.s()),
)
case(
    "three deep",
    21,
    lambda t, u: chord(
        [chord([chord([t.ident.s(i) for i in range(7)], t.total.s())], t.total.s())], t.total.s()
    ),
)
case(
    "chord in the middle of a chain",
    8,
    lambda t, u: chain(t.ident.s(1), chord([t.add.s(1), t.add.s(2)], t.total.s()), t.add.s(3)),
)
case("chord with a failing member", CHORD, lambda t, u: chord([t.ident.s(1), t.fail.s(2)], t.total.s()))
case(
    "the first failing member is named",
    Fails("ChordError", "Oops('failed with', 1)"),
    lambda t, u: chord([t.ident.s(0), t.fail.s(1), t.fail.s(2)], t.total.s()),
)
case("all members fail", CHORD, lambda t, u: chord([t.fail.s(i) for i in range(5)], t.total.s()))
case("an immutable body does not run after a failure", CHORD, lambda t, u: chord([t.fail.s()], t.const.si(1)))
case(
    "a failing chain in a header",
    CHORD,
    lambda t, u: chord([t.ident.s(1), t.fail.s() | t.ident.s() | t.ident.s()], t.total.s()),
)
case(
    "a failing chain that ends in a group, in a header",
    CHORD,
    lambda t, u: chord([t.ident.s(1), t.fail.s() | group(t.ident.s(), t.ident.s())], t.total.s()),
)
case(
    "a failing chord in a header",
    Fails("ChordError", "raised ChordError("),
    lambda t, u: chord([t.ident.s(1), chord([t.fail.s()], t.total.s())], t.total.s()),
)
case(
    "a failing chord, and on", CHORD, lambda t, u: chord([t.fail.s()], t.total.s()) | t.add.s(1) | t.add.s(1)
)
case(
    "a failing chord before a group",
    CHORD,
    lambda t, u: chord([t.fail.s()], t.total.s()) | group(t.add.s(1), t.add.s(2)),
)
case(
    "a failing step before a chord",
    OOPS,
    lambda t, u: t.fail.s() | group(t.ident.s(), t.ident.s()) | t.total.s(),
)
case("a failing step before a group", OOPS, lambda t, u: t.fail.s() | group(t.ident.s(), t.ident.s()))
case("a failing body", OOPS, lambda t, u: chord([t.ident.s(1)], t.fail.s()))
case(
    "a failing body of a header's chord",
    CHORD,
    lambda t, u: chord([chord([t.ident.s(1)], t.fail.s()), t.ident.s(2)], t.total.s()),
)
case(
    "the body is a group after a failure",
    CHORD,
    lambda t, u: chord([t.fail.s()], group(t.total.s(), t.ident.s())),
)
case(
    "an ignored member",
    Fails("ChordError", "was ignored"),
    lambda t, u: chord([t.ident.s(1), t.ignored.s()], t.total.s()),
)
case(
    "an ignored step of a header's chain",
    Fails("ChordError", "was ignored"),
    lambda t, u: chord([t.ident.s(1), t.ignored.s() | t.ident.s()], t.total.s()),
)
case(
    "a rejected member",
    Fails("ChordError", "Reject("),
    lambda t, u: chord([t.ident.s(1), t.rejected.s()], t.total.s()),
)
case(
    "retries in a header",
    [1, 4],
    lambda t, u: chord([t.flaky.s(1, 2), t.flaky.s(3, 1) | t.add.s(1)], t.ident.s()),
)
case(
    "chosen ids in a header",
    [1, 2],
    lambda t, u: chord([t.ident.s(1).set(task_id=u("mine")), t.ident.s(2)], t.ident.s()),
    mine=1,
)
case("header of the same task twice", [1, 1], lambda t, u: chord([t.ident.s(1)] * 2, t.ident.s()))
case(
    "a member that ignores its result is still there",
    [1, 2],
    lambda t, u: chord([t.ident.s(1).set(ignore_result=True), t.ident.s(2)], t.ident.s()),
)
case("chord of 30", sum(range(30)), lambda t, u: chord([t.ident.s(i) for i in range(30)], t.total.s()))

# --- chunks, map, starmap
case("chunks", [[0, 2, 4], [6, 8, 10], [12]], lambda t, u: t.add.chunks([(i, i) for i in range(7)], 3))
case("chunks of a generator", [[0, 2], [4]], lambda t, u: t.add.chunks(((i, i) for i in range(3)), 2))
case("chunks as a group", [[0, 2], [4]], lambda t, u: t.add.chunks([(i, i) for i in range(3)], 2).group())
case(
    "chunks then a task",
    [[0, 2], [4]],
    lambda t, u: t.add.chunks([(i, i) for i in range(3)], 2) | t.ident.s(),
)
case("map", [1, 2, 3], lambda t, u: t.ident.map([1, 2, 3]))
case("map of a signature", [1, 2], lambda t, u: xmap(t.ident.s(), [1, 2]))
case("starmap", [3, 7], lambda t, u: t.add.starmap([(1, 2), (3, 4)]))
case("starmap of a signature", [3, 7], lambda t, u: xstarmap(t.add.s(), [(1, 2), (3, 4)]))
case("map, then a task", 6, lambda t, u: t.ident.map([1, 2, 3]) | t.total.s())
case("map that fails", OOPS, lambda t, u: t.fail.map([1]))
case(
    "map in a header", [[1, 2], [3]], lambda t, u: chord([t.ident.map([1, 2]), t.ident.map([3])], t.ident.s())
)
case("chunks made by hand", [[1], [2]], lambda t, u: chunks(t.ident.s(), [(1,), (2,)], 1))

# --- replace, add_to_chord
case("replace", 3, lambda t, u: t.becomes.s(1, 2))
case("replace in a chain", 7, lambda t, u: t.becomes.s(1, 2) | t.add.s(4))
case("replace at the end of a chain", 5, lambda t, u: t.ident.s(2) | t.becomes.s(3))
case("replace by a chain", 20, lambda t, u: t.becomes_chain.s(1))
case("replace by a chain in a chain", 21, lambda t, u: t.becomes_chain.s(1) | t.add.s(1))
case("replace by a group", [0, 1, 2], lambda t, u: t.becomes_group.s(3))
case("replace by a group in a chain", 3, lambda t, u: t.becomes_group.s(3) | t.total.s())
case("replace by a chord", 6, lambda t, u: t.becomes_chord.s(1))
case(
    "replace in a header",
    [20, [0, 1, 2], 6],
    lambda t, u: chord([t.becomes_chain.s(1), t.becomes_group.s(3), t.becomes_chord.s(1)], t.ident.s()),
)
case("replace again and again", 0, lambda t, u: t.countdown_to.s(5) | t.ident.s())
case("replace by what fails", OOPS, lambda t, u: t.becomes_failing.s())
case(
    "replace by what fails, in a header",
    CHORD,
    lambda t, u: chord([t.becomes_failing.s(), t.ident.s(1)], t.total.s()),
)
case("replace in a group", [3, 7], lambda t, u: group(t.becomes.s(1, 2), t.becomes.s(3, 4)))
case("replace a body", 10, lambda t, u: chord([t.ident.s(1)], t.const.si(1) | t.becomes_chain.si(0)))
case(
    "add_to_chord", [1, 2, 100, 101, 200], lambda t, u: chord([t.grows.s(1, 2), t.grows.s(2, 1)], t.ident.s())
)
case("add_to_chord of one", [1, 100], lambda t, u: chord([t.grows.s(1, 1)], t.ident.s()))


def _with_body(found: Any, body: Any) -> Any:
    return found.clone((), {"body": body})


# --- callbacks and errbacks: their results stand under ids of their own
case("link", 3, lambda t, u: t.add.s(1, 2).set(link=t.add.s(10).set(task_id=u("cb"))), cb=13)
case(
    "two links",
    3,
    lambda t, u: t.add.s(1, 2).set(
        link=[t.add.s(10).set(task_id=u("one")), t.add.s(20).set(task_id=u("two"))]
    ),
    one=13,
    two=23,
)
case("immutable link", 3, lambda t, u: t.add.s(1, 2).set(link=t.const.si(5).set(task_id=u("cb"))), cb=5)
case(
    "link of a link",
    3,
    lambda t, u: t.add.s(1, 2).set(link=t.add.s(10).set(link=t.add.s(100).set(task_id=u("cb")))),
    cb=113,
)
case(
    "link is a chain",
    3,
    lambda t, u: t.add.s(1, 2).set(link=t.add.s(1) | t.mul.s(10).set(task_id=u("cb"))),
    cb=40,
)
case(
    "link is a chord",
    3,
    lambda t, u: t.add.s(1, 2).set(link=chord([t.add.s(1), t.add.s(2)], t.total.s().set(task_id=u("cb")))),
    cb=9,
)
case(
    "link in a chain",
    5,
    lambda t, u: t.add.s(1, 2).set(link=t.add.s(10).set(task_id=u("cb"))) | t.add.s(2),
    cb=13,
)
case(
    "link of a header's member",
    3,
    lambda t, u: chord([t.ident.s(1).set(link=t.add.s(10).set(task_id=u("cb"))), t.ident.s(2)], t.total.s()),
    cb=11,
)
case(
    "link of a body",
    3,
    lambda t, u: chord([t.ident.s(1), t.ident.s(2)], t.total.s().set(link=t.add.s(10).set(task_id=u("cb")))),
    cb=13,
)
case(
    "link of a chord",
    3,
    lambda t, u: _with(
        chord([t.ident.s(1), t.ident.s(2)], t.total.s()), link=t.add.s(10).set(task_id=u("cb"))
    ),
    cb=13,
)
case(
    "link of a chain",
    3,
    lambda t, u: _with(t.ident.s(1) | t.add.s(2), link=t.add.s(10).set(task_id=u("cb"))),
    cb=13,
)
case(
    "a link after a failure does not run",
    OOPS,
    lambda t, u: t.fail.s().set(link=t.const.si().set(task_id=u("x"))),
)
case("errback", OOPS, lambda t, u: t.fail.s().on_error(t.const.si("told").set(task_id=u("eb"))), eb="told")
case(
    "errback with three parameters",
    OOPS,
    lambda t, u: t.fail.s("why").on_error(t.told.s().set(task_id=u("eb"))),
    eb=["Oops", "('failed with', 'why')", "fail", True],
)
case(
    "errback with three parameters and its own",
    OOPS,
    lambda t, u: t.fail.s("why").on_error(t.told.s(note="own").set(task_id=u("eb"))),
    eb=["Oops", "('failed with', 'why')", "fail", True, "own"],
)
case(
    "errback of a chain, at its first",
    OOPS,
    lambda t, u: _with(chain(t.fail.s(), t.ident.s()), link_error=t.const.si("told").set(task_id=u("eb"))),
    eb="told",
)
case(
    "errback of a chain, at its end",
    OOPS,
    lambda t, u: _with(chain(t.ident.s(1), t.fail.s()), link_error=t.const.si("told").set(task_id=u("eb"))),
    eb="told",
)
case(
    "errback of a body",
    CHORD,
    lambda t, u: chord([t.fail.s()], t.total.s().on_error(t.const.si("told").set(task_id=u("eb")))),
    eb="told",
)
case(
    "errback of a chord",
    CHORD,
    lambda t, u: chord([t.fail.s()], t.total.s()).on_error(t.const.si("told").set(task_id=u("eb"))),
    eb="told",
)
case(
    "errback of a body's chain",
    CHORD,
    lambda t, u: chord([t.fail.s()], t.total.s() | t.add.s(1)).on_error(
        t.const.si("told").set(task_id=u("eb"))
    ),
    eb="told",
)
case(
    "errback of a chord that knows the error",
    CHORD,
    lambda t, u: chord([t.fail.s()], t.total.s().on_error(t.kind.s().set(task_id=u("eb")))),
    eb=["ChordError", "Oops"],
)
case(
    "errback is a chain",
    OOPS,
    lambda t, u: t.fail.s().on_error(t.const.si(1) | t.add.s(1).set(task_id=u("eb"))),
    eb=2,
)
case(
    "errback after retries",
    OOPS,
    lambda t, u: t.stubborn.s().on_error(t.const.si("told").set(task_id=u("eb"))),
    eb="told",
)
case(
    "errback of a replaced task",
    OOPS,
    lambda t, u: t.becomes_failing.s().on_error(t.const.si("told").set(task_id=u("eb"))),
    eb="told",
)
case(
    "link of a replaced task",
    3,
    lambda t, u: t.becomes.s(1, 2).set(link=t.add.s(10).set(task_id=u("cb"))),
    cb=13,
)
case(
    "ids that were chosen in a chain",
    6,
    lambda t, u: t.add.s(1, 2).set(task_id=u("first")) | t.add.s(3),
    first=3,
)
case("an id for a whole chain", 6, lambda t, u: _with(t.add.s(1, 2) | t.add.s(3), task_id=u("all")), all=6)
case(
    "an id for a chord",
    3,
    lambda t, u: _with(chord([t.ident.s(1), t.ident.s(2)], t.total.s()), task_id=u("all")),
    all=3,
)
case(
    "an id for a body",
    3,
    lambda t, u: chord([t.ident.s(1), t.ident.s(2)], t.total.s().set(task_id=u("b"))),
    b=3,
)

# --- partial arguments, JSON, and other shapes
case("partial chain", 16, lambda t, u: chain(t.add.s(1), t.add.s(5)).clone((10,)))
case("partial group", [11, 12], lambda t, u: group(t.add.s(1), t.add.s(2)).clone((10,)))
case("partial chord", 23, lambda t, u: chord([t.add.s(1), t.add.s(2)], t.total.s()).clone((10,)))
case("keywords of a group", [[1, 7], [2, 7]], lambda t, u: group(t.kw.s(1), t.kw.s(2)).clone((), {"y": 7}))
case("keywords of a chain", [[1, 7]], lambda t, u: (t.kw.s(1) | t.collect.s()).clone((), {"y": 7}))
case(
    "through JSON",
    7,
    lambda t, u: _json(t, t.ident.s(1) | group(t.add.s(1), t.add.s(2)) | t.total.s() | t.add.s(2)),
)
case(
    "a chord through JSON",
    13,
    lambda t, u: _json(t, chord([t.ident.s(1), t.ident.s(2)], t.total.s() | t.add.s(10))),
)
case("chunks through JSON", [[0, 2], [4]], lambda t, u: _json(t, t.add.chunks([[i, i] for i in range(3)], 2)))
case("map through JSON", [1, 2], lambda t, u: _json(t, t.ident.map([1, 2])))
case("by name", 6, lambda t, u: t.app.signature("add", (1, 2)) | t.app.signature("add", (3,)))
case("a signature is a value too", 3, lambda t, u: t.runs.s(t.add.s(1, 2)))
case(
    "chain of a chord and a chain",
    14,
    lambda t, u: chain(chord([t.ident.s(1), t.ident.s(2)], t.total.s()), chain(t.add.s(1), t.add.s(10))),
)
case(
    "chord of chords of chains",
    [[2, 4], [6]],
    lambda t, u: chord(
        [
            chord([t.add.s(0, 1) | t.add.s(1), t.add.s(2, 2)], t.ident.s()),
            chord([t.add.s(3, 3)], t.ident.s()),
        ],
        t.ident.s(),
    ),
)
case(
    "header of groups of one",
    [1, 2],
    lambda t, u: chord([group([t.ident.s(1)]), group([t.ident.s(2)])], t.ident.s()),
)
case(
    "chain, group, chain, group",
    [14, 24],
    lambda t, u: chain(
        t.ident.s(1), group(t.add.s(1), t.add.s(1)), t.total.s(), group(t.add.s(10), t.add.s(20))
    ),
)
case(
    "group | group | group",
    [[3, [1, 2]], [3, [1, 2]]],
    lambda t, u: (
        group(t.ident.s(1), t.ident.s(2)) | group(t.total.s(), t.ident.s()) | group(t.ident.s(), t.ident.s())
    ),
)
case(
    "group, group, task",
    6,
    lambda t, u: chain(group(t.ident.s(1), t.ident.s(2)), group(t.total.s(), t.total.s()), t.total.s()),
)
case("body with keywords", [[1], 9], lambda t, u: chord([t.ident.s(1)], t.kw.s(y=9)))
case("options on a group", [1, 2], lambda t, u: _with(group(t.ident.s(1), t.ident.s(2)), headers={"x": 1}))
case(
    "headers stay with their call",
    ["one", None],
    lambda t, u: group(t.header.s("h").set(headers={"h": "one"}), t.header.s("h")),
)
case("where one is in a group", [[0, True], [1, True]], lambda t, u: group(t.place.s(), t.place.s()))
case(
    "where one is in a header",
    [[0, True], [1, True], [2, True]],
    lambda t, u: chord([t.place.s(), t.place.s(), t.ident.s(1) | t.place.si()], t.ident.s()),
)
case("in no group", [None, False], lambda t, u: t.place.s())
case(
    "async tasks", 2, lambda t, u: t.later.s(1) | group(t.later.s(), t.later.s()) | t.total.s() | t.later.s()
)
case("async tasks mapped", [1, 2], lambda t, u: t.later.map([1, 2]))
case(
    "unicode and numbers",
    ["ä€𝄞", 1.5, -3],
    lambda t, u: chord([t.ident.s("ä€𝄞"), t.ident.s(1.5), t.ident.s(-3)], t.ident.s()),
)
case(
    "empty strings and zeros",
    ["", 0, False, None, []],
    lambda t, u: chord([t.ident.s(each) for each in ("", 0, False, None, [])], t.ident.s()),
)


def _with(made: Any, **options: Any) -> Any:
    return made.clone((), None, **options)


def _json(t: SimpleNamespace, made: Any) -> Any:
    return t.app.signature(json.loads(json.dumps(made)))
