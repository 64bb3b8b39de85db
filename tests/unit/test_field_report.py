"""The contest's arithmetic and its tables (benchmarks/field)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.field import money, report
from benchmarks.field.__main__ import arguments
from benchmarks.field.contestants import roster
from benchmarks.field.figures import Figures, difference, total
from benchmarks.field.goals import GOALS
from benchmarks.field.measures.throughput import parts
from benchmarks.field.sizes import Sizes


def some_figures() -> Figures:
    figures = Figures()
    for key, consume, slow in (("http", (25.0, 20.0), 900.0), ("cloudq", (50.0, 44.0), 4000.0)):
        for value in consume:
            figures.add(key, "consume", value)
        figures.add(key, "slow_rate", slow)
    figures.count("cloudq", "bulk", {"SendMessageBatch": 100}, 1000)
    figures.count(
        "cloudq", "consume", {"ReceiveMessage": 110, "DeleteMessageBatch": 100, "received": 1000}, 1000
    )
    figures.about = {
        "date": "2026-11-21",
        "seconds": 200,
        "rounds": 2,
        "tasks": 1000,
        "members": 200,
        "concurrency": 16,
        "slow_concurrency": 64,
        "python": "3.11.7",
        "cores": 2,
        "load_before": 0.3,
        "load_after": 2.1,
        "contestants": {
            each.key: {"title": each.title, "versions": "x 1"} for each in (roster.HTTP, roster.CLOUDQ)
        },
    }
    return figures


def test_the_best_of_the_rounds_is_the_least_cost_and_the_greatest_rate() -> None:
    figures = some_figures()
    figures.add("cloudq", "slow_rate", 5500.0)

    assert figures.best("cloudq", "consume") == 44.0
    assert figures.best("cloudq", "slow_rate") == 5500.0
    assert figures.best("cloudq", "latency") is None


def test_a_ratio_is_of_the_best_rounds_and_missing_without_one_of_them() -> None:
    figures = some_figures()

    assert figures.ratio("consume", "cloudq", "http") == 44.0 / 20.0
    assert figures.ratio("consume", "celery", "cloudq") is None


def test_calls_are_counted_between_two_looks_and_per_task() -> None:
    counted = difference({"ReceiveMessage": 30, "received": 100, "SendMessage": 4}, {"ReceiveMessage": 10})

    assert counted == {"ReceiveMessage": 20, "received": 100, "SendMessage": 4}
    assert total(counted) == 24


def test_the_round_with_the_fewest_calls_stands() -> None:
    figures = Figures()
    figures.count("cloudq", "consume", {"ReceiveMessage": 150}, 1000)
    figures.count("cloudq", "consume", {"ReceiveMessage": 100}, 1000)
    figures.count("cloudq", "consume", {"ReceiveMessage": 300}, 1000)

    assert figures.calls["cloudq"]["consume"] == {"ReceiveMessage": 0.1}


def test_batched_calls_and_one_write_cost_what_the_price_list_says() -> None:
    batched = {"SendMessageBatch": 0.1, "ReceiveMessage": 0.1, "DeleteMessageBatch": 0.1}
    celery = {"SendMessage": 1, "ReceiveMessage": 1, "DeleteMessage": 1, "PutItem": 1, "GetItem": 1}

    assert money.dollars_per_million(batched) == pytest.approx(0.12)
    assert money.dollars_per_million(batched | {"PutItem": 1, "write_units": 1}) == pytest.approx(0.745)
    assert money.dollars_per_million(celery | {"write_units": 1, "read_units": 0.5}) == pytest.approx(1.8875)


def test_an_idle_long_poll_of_twenty_seconds_costs_five_cents_a_month() -> None:
    assert money.idle_dollars_a_month(3) == pytest.approx(0.05184)


def test_a_goal_is_reached_missed_or_not_measured() -> None:
    figures = some_figures()
    verdicts = {goal.text: goal.verdict(figures) for goal in GOALS}

    assert verdicts["consume: CPU at most 2x the bare HTTP loop"] == (2.2, False)
    assert verdicts["10 ms on every call: at least 5,000 tasks/s"] == (4000.0, False)
    assert verdicts["SQS calls per task, sent in bulk: about 0.3"] == (pytest.approx(0.31), True)
    assert verdicts["worker memory under 60 MB (resident)"] is None


def test_the_page_says_what_was_measured_and_where() -> None:
    text = report.whole(some_figures())

    assert "| consume, µs CPU | 20 | 44 |" in text
    assert "| with 10 ms on every call, tasks/s | 900 | 4,000 |" in text
    assert "| consume | 1.00 | 2.20 |" in text
    assert "| consume, calls per task |  | 0.21 |" in text
    assert "| consume, $ per million tasks |  | 0.084 |" in text
    assert "| **sent in bulk and run**, calls per task |  | 0.31 |" in text
    assert "| **sent in bulk and run**, $ per million tasks |  | 0.124 |" in text
    assert "sent singly and run" not in text  # single sends were not counted
    assert "| consume: CPU at most 2x the bare HTTP loop | 2.20x | **missed** |" in text
    assert "before: 0.3, after: 2.1" in text


def test_a_busy_machine_is_admitted() -> None:
    figures = some_figures()
    assert "busy with other work" not in report.whole(figures)

    figures.about["load_before"] = 9.0

    assert "**The machine was busy with other work**" in report.whole(figures)


def test_what_got_stuck_is_said() -> None:
    figures = some_figures()
    figures.troubles.append("Celery has done 3 of 10 after 60 s")

    assert "- Celery has done 3 of 10 after 60 s" in report.whole(figures)


def test_a_soak_shows_whether_memory_grew() -> None:
    figures = some_figures()
    assert "Resident MB" not in report.whole(figures)

    figures.about["soak_tasks"] = 1000
    for megabytes in (50.0, 50.5, 53.0):
        figures.add("cloudq", "soak", megabytes)
    text = report.whole(figures)

    assert "Resident MB after each tenth of 1,000 tasks:\n\n- cloudq: 50.0, 50.5, 53.0" in text
    assert (
        "| worker memory flat over the soak (at most 2 MB more at its end) | 3.00 MB | **missed** |" in text
    )


def test_only_what_stands_between_the_markers_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Before\n{report.BEGIN}\nold\n{report.END}\nafter\n")

    report.into_page(page, some_figures())
    once = page.read_text()
    report.into_page(page, some_figures())

    assert page.read_text() == once
    assert once.startswith(f"# Before\n{report.BEGIN}\n")
    assert once.endswith(f"{report.END}\nafter\n")
    assert "old" not in once


def test_figures_of_one_core_have_a_place_of_their_own(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        f"{report.BEGIN}\nall\n{report.END}\n{report.BEGIN_ONE_CORE}\nold\n{report.END_ONE_CORE}\nafter\n"
    )
    figures = some_figures()
    figures.about["one_core"] = True

    report.into_page(page, figures)

    text = page.read_text()
    assert text.startswith(f"{report.BEGIN}\nall\n{report.END}\n{report.BEGIN_ONE_CORE}\n")
    assert "2 cores, one for the contestants and another for the server" in text
    assert "| consume: CPU at most 2x the bare HTTP loop | 2.20x | **missed** |" in text
    assert "old" not in text


def test_a_page_without_markers_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# No place\n")

    with pytest.raises(ValueError, match="put both where the tables belong"):
        report.into_page(page, some_figures())
    assert page.read_text() == "# No place\n"


def test_figures_come_back_from_their_file() -> None:
    figures = some_figures()

    assert Figures.from_json(json.loads(json.dumps(figures.as_json()))) == figures


def test_contestants_are_chosen_by_name_and_strange_names_refused() -> None:
    assert [each.key for each in roster.chosen("cloudq, http")] == ["http", "cloudq"]
    assert roster.chosen(None) == list(roster.ALL)
    assert roster.chosen("together,http") == [roster.HTTP, roster.TOGETHER]
    assert roster.TOGETHER not in roster.ALL
    with pytest.raises(ValueError, match="no contestant is called huey; there are http, boto3"):
        roster.chosen("cloudq,huey")


def test_a_contestant_without_its_packages_is_left_out_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    from dataclasses import replace

    from benchmarks.field.__main__ import installed

    nowhere = replace(roster.CELERY, needs=("no-such-distribution", "msgspec"))

    assert installed([roster.HTTP, nowhere]) == [roster.HTTP]
    assert "Celery is left out: no-such-distribution not installed" in capsys.readouterr().err


def test_slow_contestants_get_fewer_tasks() -> None:
    sizes = Sizes(whole=20_000)

    assert sizes.tasks(roster.CLOUDQ) == 20_000
    assert sizes.tasks(roster.CELERY) < 2_000
    assert sizes.slow_tasks(roster.CELERY) < sizes.slow_tasks(roster.CLOUDQ)


def test_a_round_is_measured_in_parts_of_whole_batches() -> None:
    assert parts(10_000, 5) == [2000] * 5
    assert parts(405, 5) == [90, 90, 90, 90, 45]
    assert parts(20, 5) == [10, 10]
    assert parts(7, 5) == [7]


def test_sizes_that_measure_nothing_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(["--tasks", "3"])
    assert "--tasks is at least 100" in capsys.readouterr().err
