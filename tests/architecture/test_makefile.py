"""What the Makefile names, it does: a target without a rule would succeed and do nothing."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_target_has_a_rule() -> None:
    text = (ROOT / "Makefile").read_text("utf-8")
    [names] = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    lines = re.findall(r"^make (.*)$", (ROOT / ".ci" / "run").read_text("utf-8"), re.MULTILINE)
    asked = [
        word for line in lines for word in re.findall(r"(?<!\S)[a-z][a-z-]*(?!\S)", line.partition("#")[0])
    ]
    assert {"check", "checkov", "test", "demo"} <= {*asked}
    for name in {*names.split(), *asked}:
        assert re.search(rf"^{name}:.*##", text, re.MULTILINE), f"make {name} does nothing"
