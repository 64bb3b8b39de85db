"""The tests shown on docs/testing.md pass, with the plugin as pytest itself finds it."""

import re
import subprocess
import sys
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs" / "testing.md").read_text("utf-8")


def test_the_page(tmp_path: Path) -> None:
    for name, code in re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)```", PAGE, re.DOTALL):
        (tmp_path / name).write_text(code)
    blocks = re.findall(r"<!-- run -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    for number, code in enumerate(blocks):
        (tmp_path / f"test_block_{number}.py").write_text(code)

    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--timeout=45",
        ],  # shows where it hangs
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"{PAGE.count('def test_')} passed", done.stdout), done.stdout
    assert len(blocks) >= 4
