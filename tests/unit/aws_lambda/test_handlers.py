"""The files in handlers/: each is a function that Lambda can load."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
APP = 'from cloudq import CloudQ\napp = CloudQ("s", broker="memory://", backend="memory://")\n'


def load(folder: Path, name: str, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "shop.py").write_text(APP)
    clean = {k: v for k, v in os.environ.items() if not k.startswith("CLOUDQ_")}
    return subprocess.run(
        [sys.executable, "-c", f"import handlers.{name} as h\n{code}"],
        cwd=folder,
        env={**clean, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("name", "code", "environment", "said"),
    [
        ("consume", "print(h.handler({'Records': []}, None))", {}, "{'batchItemFailures': []}"),
        (
            "redrive",
            "print(h.handler({}, None)['redriven'])",
            {"CLOUDQ_REDRIVE_RULES": '[{"queue": "q"}]'},
            "'count': 0",
        ),
        (
            "api",
            "print(h.handler({}, None)['statusCode'])",
            {"CLOUDQ_API_TASKS": "shop.*,mail.send", "CLOUDQ_API_AUTH": "iam"},
            "400",
        ),
    ],
)
def test_a_handler_finds_its_app(
    tmp_path: Path, name: str, code: str, environment: dict[str, str], said: str
) -> None:
    done = load(tmp_path, name, code, CLOUDQ_APP="shop:app", **environment)
    assert said in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("name", "environment", "said"),
    [
        ("consume", {}, "CLOUDQ_APP"),
        ("consume", {"CLOUDQ_APP": "shopp:app"}, "no module 'shopp'"),
        ("consume", {"CLOUDQ_APP": "shop:ap"}, "there is shop:app"),
        ("redrive", {"CLOUDQ_APP": "shop:app", "CLOUDQ_REDRIVE_RULES": "[{}]"}, "names no queue"),
        ("api", {"CLOUDQ_APP": "shop:app"}, "CLOUDQ_API_TASKS"),
    ],
)
def test_what_is_missing_is_said_at_the_start(
    tmp_path: Path, name: str, environment: dict[str, str], said: str
) -> None:
    done = load(tmp_path, name, "", **environment)
    assert done.returncode == 1
    assert said in done.stderr.splitlines()[-1]
