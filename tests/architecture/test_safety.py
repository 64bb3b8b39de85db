"""What the source must not do anywhere, and reasons for what it does all the same (issue 10)."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {
    each.relative_to(ROOT).as_posix(): each.read_text("utf-8")
    for folder in ("cloudq", "handlers")
    for each in sorted((ROOT / folder).rglob("*.py"))
}


def where(pattern: str) -> set[str]:
    """Files in which the pattern is found."""
    return {name for name, text in SOURCES.items() if re.search(pattern, text)}


@pytest.mark.parametrize(
    "pattern",
    [r"verify\s*=\s*False", r"CERT_NONE", r"CERT_OPTIONAL", r"check_hostname\s*=\s*False", r"_create_unverified",
     r"verify_mode\s*=", r"connection_verify", r"ssl_context\s*=\s*False", r"use_ssl"],
)  # fmt: skip
def test_nothing_turns_off_the_checking_of_certificates(pattern: str) -> None:
    assert where(pattern) == set()


def test_pickles_are_read_by_the_named_serializer_and_of_our_own_pipes_alone() -> None:
    assert where(r"pickle\.loads?\(|Unpickler") == {
        "cloudq/serializers/pickle.py",  # the codec has checked name and signature
        "cloudq/pools/child.py",  # the parent's jobs, over an inherited socket
        "cloudq/pools/prefork.py",  # the child's answers, over the same
    }
    assert where(r"import (marshal|shelve|dill|cloudpickle)") == set()


def test_yaml_is_read_in_one_place() -> None:
    assert where(r"yaml\.(load|load_all|parse|unsafe_load|full_load)\(") == {"cloudq/serializers/yaml.py"}
    assert where(r"(Unsafe|Full)Loader|yaml\.Loader\b") == set()


def test_no_text_is_run_as_code_or_by_a_shell() -> None:
    assert where(r"(?<![\w.])(eval|exec)\(") == set()
    assert where(r"shell\s*=\s*True|os\.system\(|os\.popen\(") == set()


def test_whatever_the_linter_is_told_to_let_pass_for_safety_has_its_reason() -> None:
    silent = [
        f"{name}:{number}"
        for name, text in SOURCES.items()
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(r"# noqa: [^#]*\bS\d{3}", line)
        and not re.search(r"# noqa: [A-Z0-9, ]+?  \S|# nosec \S", line)
    ]
    assert silent == []


def test_every_check_that_bandit_skips_has_its_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    block = text.partition("[tool.bandit]")[2].partition("skips = [")[2].partition("\n]")[0]
    reason = ""
    for line in block.splitlines():
        reason = line if line.strip().startswith("#") else reason
        assert not line.strip() or "# " in line or reason.rstrip().endswith(":"), line
    assert tomllib.loads(text)["tool"]["bandit"]["skips"]
