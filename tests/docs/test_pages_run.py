"""The code of README and quickstart does what they say, with a real worker process."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def blocks(page: str, mark: str) -> list[str]:
    """The python blocks after ``<!-- run: mark -->``."""
    text = (ROOT / page).read_text("utf-8")
    return re.findall(rf"<!-- run: {mark} -->\n```python\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[object]:
    """Starts a worker in tmp_path for ``module:app``."""
    started: list[subprocess.Popen[str]] = []
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CLOUDQ_")}

    def start(app: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "cloudq", "worker", "-A", app, "--pool", "threads", "-c", "4"]
        started.append(
            subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
        )
        return started[-1]

    yield start
    for each in started:
        each.send_signal(signal.SIGTERM)
        try:
            each.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            each.kill()


def run(code: str, folder: Path) -> str:
    # The pages' ten seconds are for somebody who has started a worker; these are just about to be.
    code = code.replace("timeout=10)", "timeout=60)")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CLOUDQ_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_first_task_of_the_readme(tmp_path: Path, worker: object) -> None:
    [tasks] = blocks("README.md", "first")
    (tmp_path / "tasks.py").write_text(tasks)
    worker("tasks:app")  # type: ignore[operator]

    assert run("from tasks import add; print(add.delay(4, 4).get(timeout=20))", tmp_path) == "8\n"


def test_the_quickstart(tmp_path: Path, worker: object) -> None:
    [shop] = blocks("docs/quickstart.md", "quickstart")
    [calls] = blocks("docs/quickstart.md", "quickstart-calls")
    (tmp_path / "shop.py").write_text(shop)
    worker("shop:app")  # type: ignore[operator]

    run(calls, tmp_path)


def test_large_messages(tmp_path: Path, worker: object) -> None:
    [shop] = blocks("docs/large-messages.md", "large")
    [calls] = blocks("docs/large-messages.md", "large-calls")
    (tmp_path / "shop.py").write_text(shop)
    worker("shop:app")  # type: ignore[operator]

    run(calls, tmp_path)
    assert not list(Path(tmp_path, ".cloudq", "large", "data", "messages").glob("*.doc"))


def test_every_command_of_the_readme_exists() -> None:
    text = (ROOT / "README.md").read_text("utf-8") + (ROOT / "docs" / "quickstart.md").read_text("utf-8")
    named = set(re.findall(r"cloudq (worker|call|result|queues|dlq|local|demo|doctor)\b", text))
    named |= set(re.search(r"\| Commands \| `([a-z ]+)`", text)[1].split())  # type: ignore[index]
    shown = subprocess.run(
        [sys.executable, "-m", "cloudq", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert all(re.search(rf"\b{each}\b", shown) for each in named)
