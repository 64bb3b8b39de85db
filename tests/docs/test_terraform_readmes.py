"""Each module's four files, and the tables of inputs and outputs in its README (``CLOUDQ_TEST_UPDATE_DOCS=1``)."""

import os
import re
from pathlib import Path
from typing import Any

import hcl2
import pytest
from terraform_cli import EXAMPLES, MODULES, folders

BEGIN, END = "<!-- inputs and outputs: generated -->\n", "<!-- end -->\n"


def blocks(file: Path, kind: str) -> dict[str, dict[str, Any]]:
    """Name to body of every ``kind`` block of a file."""
    with file.open() as text:
        found = hcl2.load(text)  # type: ignore[no-untyped-call]
    return {name.strip('"'): body for each in found.get(kind, []) for name, body in each.items()}


def plain(value: Any) -> str:
    text = str(value).strip()
    if text.startswith("<<"):
        text = "\n".join(text.splitlines()[1:-1])
    return text.strip('"').replace('\\"', '"').replace("|", "\\|")


def default(body: dict[str, Any]) -> str:
    if "default" not in body:
        return "required"
    value = body["default"]
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{plain(value)}`" if plain(value) else "empty"


def tables(module: Path) -> str:
    lines = ["| Input | Meaning | Default |", "|---|---|---|"]
    for name, body in blocks(module / "variables.tf", "variable").items():
        lines.append(f"| `{name}` | {plain(body['description'])} | {default(body)} |")
    lines += ["", "| Output | Meaning |", "|---|---|"]
    for name, body in blocks(module / "outputs.tf", "output").items():
        lines.append(f"| `{name}` | {plain(body['description'])} |")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", folders(MODULES))
def test_a_module_has_its_files_and_its_readme_lists_what_it_takes_and_gives(name: str) -> None:
    module = MODULES / name
    for file in ("main.tf", "variables.tf", "outputs.tf", "versions.tf", "README.md"):
        assert (module / file).exists(), f"{name} lacks {file}"

    readme = module / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    written, after = rest.split(END)
    if os.environ.get("CLOUDQ_TEST_UPDATE_DOCS"):
        written = tables(module)
        readme.write_text(before + BEGIN + written + END + after)
    assert written == tables(module)


@pytest.mark.parametrize("name", folders(MODULES))
def test_every_input_and_output_of_a_module_is_described_and_typed(name: str) -> None:
    variables = blocks(MODULES / name / "variables.tf", "variable")
    for variable, body in variables.items():
        assert body.get("description"), f"{name}: {variable} has no description"
        assert body.get("type"), f"{name}: {variable} has no type"
        assert "any" not in str(body["type"]), f"{name}: {variable} may be anything"
    for output, body in blocks(MODULES / name / "outputs.tf", "output").items():
        assert body.get("description"), f"{name}: output {output} has no description"
    assert {"tags", "labels"} & set(variables), f"{name} takes no tags"


@pytest.mark.parametrize("name", [*(f"modules/{each}" for each in folders(MODULES)), *(
    f"examples/{each}" for each in (folders(EXAMPLES) if EXAMPLES.exists() else []))])  # fmt: skip
def test_wildcard_actions_are_in_denials_only(name: str) -> None:
    folder = MODULES.parent / name
    for file in folder.glob("*.tf"):
        text = file.read_text()
        for found in re.finditer(r'"[a-z0-9-]+:[A-Za-z]*\*[A-Za-z*]*"|Resource\s*=\s*\[?"\*"', text):
            around = text[max(0, found.start() - 200) : found.start()]
            assert '"Deny"' in around, f"{file}: {found.group()} outside of a Deny"


def test_every_check_that_is_skipped_has_a_written_reason() -> None:
    """`make checkov` fails on what is neither right nor excused."""
    skips = [
        line.split("checkov:skip=")[1]
        for file in MODULES.rglob("*.tf")
        for line in file.read_text().splitlines()
        if "checkov:skip=" in line
    ]
    assert skips
    for each in skips:
        check, _, reason = each.partition(":")
        assert re.fullmatch(r"CKV2?_[A-Z]+_[0-9]+", check), each
        assert len(reason) > 20, f"{check} is skipped without a reason"
