"""docs/workers.md names only what there is."""

import re
from pathlib import Path

import typer.main

from cloudq.cli.main import cli
from cloudq.settings import NAMES

PAGE = (Path(__file__).parents[2] / "docs" / "workers.md").read_text("utf-8")


def test_every_option_that_the_page_names_exists() -> None:
    command = typer.main.get_command(cli)
    worker = command.commands["worker"]  # type: ignore[attr-defined]
    known = {option for each in worker.params for option in (*each.opts, *each.secondary_opts)}
    named = set(re.findall(r"(?<![\w-])(--[a-z][a-z-]+)", PAGE))

    assert named <= known
    assert len(named) > 4


def test_every_setting_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`((?:result|task|worker)_[a-z_]+)`", PAGE))

    assert named <= {*NAMES, "worker_lost"}
    assert len(named) > 2


def test_every_option_of_the_command_is_on_the_page_or_explains_itself() -> None:
    worker = typer.main.get_command(cli).commands["worker"]  # type: ignore[attr-defined]

    assert [parameter.name for parameter in worker.params if not parameter.help] == []
