"""The blocks of the pages about tasks do what they say."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str) -> list[str]:
    """The python blocks after ``<!-- run -->``."""
    return re.findall(r"<!-- run -->\n```python\n(.*?)```", (DOCS / page).read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", ["limits.md", "idempotency.md", "batches.md", "routing.md", "canvas.md"])
def test_the_blocks_of_the_page_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = blocks(page)
    assert found
    for number, block in enumerate(found):
        exec(compile(block, f"{page}[{number}]", "exec"), {"__name__": f"page_{number}"})


@pytest.mark.parametrize("page", ["limits.md", "idempotency.md", "batches.md", "routing.md", "canvas.md"])
def test_every_option_the_page_shows_exists(page: str) -> None:
    from cloudq.options import CALL_OPTIONS, TASK_OPTIONS
    from cloudq.settings import NAMES

    text = (DOCS / page).read_text("utf-8")
    shown = {
        name for line in re.findall(r"@app\.task\((.*?)\)", text) for name in re.findall(r"(\w+)=", line)
    }
    assert shown <= TASK_OPTIONS
    named = set(re.findall(r"`((?:task|worker)_\w+)`", text))
    assert named <= {*NAMES, *CALL_OPTIONS, *TASK_OPTIONS}
