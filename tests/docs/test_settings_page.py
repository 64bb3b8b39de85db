"""docs/settings.md says what the settings are; run with CLOUDQ_TEST_UPDATE_DOCS=1 to write it anew."""

import os
from pathlib import Path

from cloudq.conf import TOOL_VARIABLES
from cloudq.settings import reference

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"

HEAD = """# Settings

Set them where it suits; later ones win: `[tool.cloudq]` in pyproject.toml, environment variables (`CLOUDQ_` and the name in
capitals), `app.config_from_object("module")` or `CloudQ(..., name=value)`, `app.conf.name = value` and `app.conf.update(...)`.
An unknown name or a value of the wrong type is an error that names the nearest right one. Lists in the environment are
comma-separated; mappings are JSON.

| setting | type | default | unit | meaning |
|---|---|---|---|---|
"""

TAIL = """
Environment variables of the command line and the handlers, which are no settings: {tools}.
"""


def page() -> str:
    rows = [
        f"| `{name}` | `{kind}` | `{default}` | {unit} | {doc} |".replace(" | None", " \\| None")
        for name, kind, default, unit, doc in reference()
    ]
    tools = ", ".join(f"`{each}`" for each in sorted(TOOL_VARIABLES))
    return HEAD + "\n".join(rows) + "\n" + TAIL.format(tools=tools)


def test_every_setting_is_documented_as_it_is() -> None:
    if os.environ.get("CLOUDQ_TEST_UPDATE_DOCS"):
        PAGE.write_text(page(), "utf-8")

    assert PAGE.read_text("utf-8") == page(), "run the tests once with CLOUDQ_TEST_UPDATE_DOCS=1"
