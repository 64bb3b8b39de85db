"""The figures as Markdown: for the terminal, and for docs/benchmarks.md between its markers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.field import money
from benchmarks.field.figures import BY_KEY, MEASURES, Figures, total
from benchmarks.field.goals import GOALS

BEGIN: Final = "<!-- field: begin (written by `make bench`) -->"
END: Final = "<!-- field: end -->"
#: The same of figures on one core, which have a place of their own.
BEGIN_ONE_CORE: Final = '<!-- field on one core: begin (written by `make bench ARGS="--one-core"`) -->'
END_ONE_CORE: Final = "<!-- field on one core: end -->"
#: Phases of which calls are counted, and what they are called.
PHASES: Final = (
    ("publish", "single send"),
    ("bulk", "bulk send"),
    ("consume", "consume"),
    ("results", "consume with result"),
    ("chord", "a chord's member"),
)
#: Phases that make up a task's life.
LIVES: Final = (
    (("publish", "consume"), "**sent singly and run**"),
    (("bulk", "consume"), "**sent in bulk and run**"),
    (("bulk", "results"), "**sent in bulk, run, result kept**"),
)


def number(value: float | None, digits: int = 0) -> str:
    """``1,234``, or nothing for what was not measured."""
    return "" if value is None else f"{value:,.{digits}f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _titles(figures: Figures) -> dict[str, str]:
    return {key: each["title"] for key, each in figures.about["contestants"].items() if key in figures.values}


def measured(figures: Figures) -> str:
    """One row a measure, one column a contestant; what was measured nowhere is left out."""
    titles = _titles(figures)
    rows = []
    for each in (each for each in MEASURES if each.key != "soak"):
        found = [figures.best(key, each.key) for key in titles]
        if any(value is not None for value in found):
            title = each.title.format(members=figures.about.get("members", ""))
            rows.append([f"{title}, {each.unit}", *(number(value, each.digits) for value in found)])
    return table(["", *titles.values()], rows)


def ratios(figures: Figures, under: str) -> str:
    """The same as ratios over one contestant; rates are turned round, so that more is always worse."""
    titles = _titles(figures)
    rows = []
    for key in ("publish", "bulk", "consume", "results", "slow_rate", "latency", "pss", "imports", "chord"):
        least = BY_KEY[key].least
        found = [
            figures.ratio(key, each, under) if least else figures.ratio(key, under, each) for each in titles
        ]
        if any(value is not None for value in found):
            title = BY_KEY[key].title if least else f"{BY_KEY[key].title} (slower by)"
            rows.append([title, *(number(value, 1 if (value or 0) >= 10 else 2) for value in found)])
    return table([f"over {titles[under]}", *titles.values()], rows)


def _together(counted: dict[str, dict[str, float]], phases: Sequence[str]) -> dict[str, float]:
    """What a task needs in these phases together; empty when one was not measured."""
    if not all(phase in counted for phase in phases):
        return {}
    names = {name for phase in phases for name in counted[phase]}
    return {name: sum(counted[phase].get(name, 0.0) for phase in phases) for name in names}


def calls(figures: Figures) -> str:
    """Calls per task and dollars per million tasks, by phase."""
    titles = _titles(figures)
    rows = []
    for phase, title in PHASES:
        counted = {key: figures.calls.get(key, {}).get(phase) for key in titles}
        if any(counted.values()):
            per_task = [number(total(each), 2) if each else "" for each in counted.values()]
            dollars = [
                number(money.dollars_per_million(each), 3) if each else "" for each in counted.values()
            ]
            rows.append([f"{title}, calls per task", *per_task])
            rows.append([f"{title}, $ per million tasks", *dollars])
    for phases, title in LIVES:
        lives = [_together(figures.calls.get(key, {}), phases) for key in titles]
        if any(lives):
            rows.append(
                [f"{title}, calls per task", *(number(total(each), 2) if each else "" for each in lives)]
            )
            cost = [number(money.dollars_per_million(each), 3) if each else "" for each in lives]
            rows.append([f"{title}, $ per million tasks", *cost])
    idle = [figures.best(key, "idle") for key in titles]
    if any(value is not None for value in idle):
        cost = [number(None if each is None else money.idle_dollars_a_month(each), 3) for each in idle]
        rows.append(["a worker with nothing to do, $ a month", *cost])
    return table(["", *titles.values()], rows) if rows else ""


def soaked(figures: Figures) -> str:
    """Memory over very many tasks; empty when that was not asked for."""
    titles = _titles(figures)
    lines = [
        f"{titles[key]}: " + ", ".join(number(value, 1) for value in found["soak"])
        for key, found in figures.values.items()
        if "soak" in found
    ]
    if not lines:
        return ""
    tasks = figures.about["soak_tasks"]
    return f"Resident MB after each tenth of {tasks:,} tasks:\n\n" + "\n".join(f"- {line}" for line in lines)


def goals(figures: Figures) -> str:
    """Each goal with its figure: reached or missed."""
    rows = []
    for goal in GOALS:
        verdict = goal.verdict(figures)
        if verdict is None:
            rows.append([goal.text, "", "not measured"])
        else:
            found, reached = verdict
            shown = number(found, 0 if found >= 100 else 2) + goal.unit
            rows.append([goal.text, shown, "reached" if reached else "**missed**"])
    return table(["goal", "measured", ""], rows)


def surroundings(figures: Figures) -> str:
    """Where and on what it was measured."""
    about = figures.about
    versions = "; ".join(
        f"{each['title']}: {each['versions']}"
        for key, each in about["contestants"].items()
        if key in figures.values
    )
    return (
        f"Measured {about['date']} in {about['seconds']:,} s: {about['rounds']} {'rounds' if about['rounds'] > 1 else 'round'} in turns, {about['tasks']:,} "
        f"tasks a round for the fastest, {about['concurrency']} threads a worker "
        f"({about['slow_concurrency']} where calls are slow), Python {about['python']}, "
        f"{_cores(about)}. Load of the machine (processes that want to run, average of a minute) before: "
        f"{about['load_before']}, after: {about['load_after']}; the benchmark itself keeps up to two busy. "
        f"{_busy(about)}{versions}."
    )


def _cores(about: dict[str, Any]) -> str:
    return f"{about['cores']} cores" + (
        ", one for the contestants and another for the server" if about.get("one_core") else ""
    )


def _busy(about: dict[str, Any]) -> str:
    """A warning, when others kept the machine busy."""
    if about["load_before"] <= about["cores"] / 2:
        return ""
    return (
        "**The machine was busy with other work**: CPU times are inflated (caches, switches), rates and latencies "
        "by the clock say little; trust the ratios of CPU and the counted calls. "
    )


def whole(figures: Figures) -> str:
    """Everything, for one document."""
    parts = [surroundings(figures), measured(figures)]
    parts += [ratios(figures, under) for under in ("http", "cloudq") if under in figures.values]
    parts += [each for each in (calls(figures), soaked(figures), goals(figures)) if each]
    if figures.troubles:
        parts.append("Left out:\n\n" + "\n".join(f"- {each}" for each in figures.troubles))
    return "\n\n".join(parts)


def brief(figures: Figures) -> str:
    """What was measured and the goals, without the rest."""
    return "\n\n".join((surroundings(figures), measured(figures), goals(figures)))


def into_page(page: Path, figures: Figures) -> None:
    """Replace what stands between the page's markers for such figures. Raises ValueError when they are missing."""
    one_core = figures.about.get("one_core", False)
    first, last = (BEGIN_ONE_CORE, END_ONE_CORE) if one_core else (BEGIN, END)
    text = page.read_text()
    head, begin, rest = text.partition(first)
    _, end, tail = rest.partition(last)
    if not begin or not end:
        raise ValueError(
            f"{page} has no line {first!r} followed by {last!r}: put both where the tables belong"
        )
    page.write_text(f"{head}{first}\n\n{brief(figures) if one_core else whole(figures)}\n\n{last}{tail}")
