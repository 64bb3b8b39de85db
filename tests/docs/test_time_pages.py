"""The blocks of the pages about schedules and delays run as they are written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def blocks(page: str, mark: str) -> list[str]:
    """The python blocks after ``<!-- run: mark -->``."""
    text = (ROOT / "docs" / page).read_text("utf-8")
    return re.findall(rf"<!-- run: {mark} -->\n```python\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize(
    ("page", "mark"),
    [
        ("schedules.md", "schedules"),
        ("schedules.md", "periodic"),
        ("schedules.md", "periodic-test"),
        ("delays.md", "delays"),
    ],
)
def test_the_blocks_run_one_after_the_other(
    page: str, mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = blocks(page, mark)
    assert found

    exec("\n".join(found), {"__name__": "page"})
