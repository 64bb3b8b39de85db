"""YAML: what libyaml and PyYAML do not survive is refused before they see it."""

import subprocess
import sys
from datetime import date

import pytest

from cloudq.errors import DecodeError, MissingExtra
from cloudq.serializers.yaml import YamlSerializer

DEEP = """
from cloudq.errors import DecodeError
from cloudq.serializers.yaml import YamlSerializer
for opening in (b"[", b"- ", b"? ", b"{"):
    try:
        YamlSerializer().loads(opening * 200_000)
    except DecodeError as error:
        assert "nested deeper" in str(error), error
print("alive")
"""


def test_a_deep_document_does_not_crash_the_process() -> None:
    # in a process of its own: the crash would be a segmentation fault
    run = subprocess.run(
        [sys.executable, "-c", DEEP], capture_output=True, text=True, timeout=60, check=False
    )

    assert (run.returncode, run.stdout.strip()) == (0, "alive"), run.stderr


def test_aliases_are_refused_before_they_unfold() -> None:
    levels = [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 30)]
    bomb = "\n".join(["l0: &l0 x", *levels])
    with pytest.raises(DecodeError, match=r"aliases \(\*l0\)"):
        YamlSerializer().loads(bomb.encode())


def test_a_sexagesimal_integer_takes_no_time() -> None:
    with pytest.raises(DecodeError, match="4000 characters"):
        YamlSerializer().loads(b"1" + b":59" * 1_000_000)


@pytest.mark.parametrize(
    "text",
    ["!!python/object/apply:os.getcwd []", "!!python/name:os.system x", "!!bool x", "!!int ''", "a: b: c"],
)
def test_what_is_not_plain_data_is_a_decode_error(text: str) -> None:
    with pytest.raises(DecodeError, match="not YAML"):
        YamlSerializer().loads(text.encode())


def test_people_write_it_as_they_are_used_to() -> None:
    text = "- [1, 0x1f, yes, 2026-11-21, 'text']\n- {name: ~}\n"

    assert YamlSerializer().loads(text.encode()) == [
        [1, 31, True, date(2026, 11, 21), "text"],
        {"name": None},
    ]


def test_the_same_value_twice_is_written_out() -> None:
    shared = [1]

    assert YamlSerializer().loads(YamlSerializer().dumps([shared, shared])) == [[1], [1]]


def test_without_pyyaml_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(MissingExtra, match=r"cloudq-tasks\[yaml\]"):
        YamlSerializer()


@pytest.mark.parametrize("text", ["\x85", "a\x85b", "\u2028", " \u2029 ", "\x85\n "])
def test_unusual_line_breaks_come_back_in_keys_and_values(text: str) -> None:
    both = YamlSerializer()
    assert both.loads(both.dumps({text: [text]})) == {text: [text]}
