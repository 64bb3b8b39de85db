"""``python -m benchmarks.field``: the contest in one command. See docs/benchmarks.md."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.field import contest, ground, plot, report
from benchmarks.field.contestants import roster
from benchmarks.field.figures import Figures
from benchmarks.field.sizes import Sizes

PAGE = ground.ROOT / "docs" / "benchmarks.md"
PICTURE = ground.ROOT / "docs" / "img" / "field.png"


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.field", description=__doc__)
    parser.add_argument("--only", help="contestants, like cloudq,http; all that are installed without it")
    parser.add_argument("--tasks", type=int, default=Sizes.whole, help="tasks a round for the fastest")
    parser.add_argument("--rounds", type=int, default=Sizes.rounds)
    parser.add_argument("--concurrency", type=int, default=16, help="threads of each worker")
    parser.add_argument("--slow-concurrency", type=int, default=64, help="the same where calls are slow")
    parser.add_argument(
        "--one-core", action="store_true", help="contestants share one core, the server is on another"
    )
    parser.add_argument(
        "--soak", type=int, default=0, help="also watch memory over so many tasks, like 1000000"
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--plot", type=Path, help="draw the figures here (PNG; needs matplotlib)")
    parser.add_argument("--write-docs", action="store_true", help=f"write {PAGE.name} and its picture")
    parser.add_argument(
        "--from", dest="source", type=Path, help="measure nothing: take the figures of a --json"
    )
    parser.add_argument(
        "--measures", default=",".join(contest.MEASURES), help="those wanted; all without it: %(default)s"
    )
    found = parser.parse_args(given)
    found.measures = found.measures.split(",")
    strange = [name for name in found.measures if name not in contest.MEASURES]
    if strange:
        parser.error(f"nothing is called {', '.join(strange)}; --measures are {', '.join(contest.MEASURES)}")
    if found.tasks < 100 or found.rounds < 1 or min(found.concurrency, found.slow_concurrency) < 1:
        parser.error("--tasks is at least 100, --rounds and --concurrency at least 1")
    try:
        found.contestants = roster.chosen(found.only)
    except ValueError as error:
        parser.error(str(error))
    return found


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def installed(contestants: list[roster.Contestant]) -> list[roster.Contestant]:
    """Those that can take part; the others are named."""
    able = []
    for each in contestants:
        missing = each.missing()
        if missing:
            say(f"{each.title} is left out: {', '.join(missing)} not installed (make bench installs all)")
        else:
            able.append(each)
    return able


def measured(options: argparse.Namespace) -> Figures:
    """Run the contest."""
    figures = Figures()
    able = installed(options.contestants)
    if not able:
        raise ground.Stuck("nobody can take part: run `make bench`, which installs all contestants")
    sizes = Sizes(whole=options.tasks, rounds=options.rounds, soak=options.soak)
    threads = (options.concurrency, options.slow_concurrency)
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        ground.prepared(Path(folder), *threads, options.one_core) as here,
    ):
        contest.hold(here, able, sizes, figures, say, options.measures)
        for trouble in figures.troubles:
            say(f"left out: {trouble}")
    return figures


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def main(given: list[str] | None = None) -> int:
    """Measure, print, write. 1 when something got stuck, 2 when it was interrupted."""
    options = arguments(given)
    if sys.platform != "linux":
        say("the CPU of other processes is read from Linux's clocks: run this on Linux")
        return 1
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        figures = (
            Figures.from_json(json.loads(options.source.read_text())) if options.source else measured(options)
        )
    except KeyboardInterrupt:
        say("interrupted: every process of the contest was ended, nothing was written")
        return 2
    except ground.Stuck as error:
        say(str(error))
        return 1
    print(report.whole(figures))
    write(figures, options)
    return 1 if figures.troubles else 0


def write(figures: Figures, options: argparse.Namespace) -> None:
    """The files that were asked for."""
    if options.json:
        options.json.write_text(json.dumps(figures.as_json(), indent=1) + "\n")
    if options.plot:
        plot.draw(figures, options.plot)
    if options.write_docs:
        report.into_page(PAGE, figures)
        if not figures.about.get("one_core"):
            plot.draw(figures, PICTURE)


if __name__ == "__main__":
    sys.exit(main())
