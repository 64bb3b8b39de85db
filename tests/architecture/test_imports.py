"""Importing cloudq and declaring tasks stays light and does nothing; imports run downstairs."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: What declaring a task must not load: SDKs, the command line's libraries, and what costs tens of milliseconds.
HEAVY = [
    "boto3", "botocore", "typer", "click", "rich", "pydantic", "asyncio", "msgspec", "logging", "importlib.metadata",
    "sqlite3", "ssl", "socket", "google.cloud", "azure", "yaml", "random", "tomllib", "concurrent.futures", "pathlib",
]  # fmt: skip


def run(code: str, folder: Path) -> object:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_declaring_a_task_loads_nothing_heavy_and_does_nothing(tmp_path: Path) -> None:
    code = f"""
import json, os, sys, threading
from cloudq import CloudQ
app = CloudQ("x")
@app.task(max_retries=3)
def f(x: int) -> int: return x
loaded = [name for name in {HEAVY!r} if name in sys.modules]
print(json.dumps([loaded, threading.active_count(), os.listdir(".")]))
"""
    assert run(code, tmp_path) == [[], 1, []]


def test_declaring_a_periodic_task_loads_nothing_heavy(tmp_path: Path) -> None:
    code = f"""
import json, sys
from cloudq import CloudQ, crontab, schedule
app = CloudQ("x")
@app.periodic(crontab(hour=7), jitter=5)
def f() -> None: ...
app.add_periodic_task(schedule(60), f.s(), name="again")
print(json.dumps([name for name in {[*HEAVY, "zoneinfo"]!r} if name in sys.modules]))
"""
    assert run(code, tmp_path) == []


def test_a_project_that_only_depends_on_cloudq_is_read_without_a_toml_parser(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\ndependencies = ["cloudq>=0.1", "cloudq[aws]"]\n')
    code = """
import json, sys
from cloudq import CloudQ
app = CloudQ("x")
print(json.dumps("tomllib" in sys.modules))
"""
    assert run(code, tmp_path) is False


def test_sending_on_the_embedded_broker_loads_no_sdk_and_nothing_that_runs_tasks(tmp_path: Path) -> None:
    unwanted = [
        "boto3", "botocore", "typer", "rich", "pydantic", "google", "azure", "asyncio", "cloudq.runtime",
        "cloudq.execution",
    ]  # fmt: skip
    code = f"""
import json, sys
from cloudq import CloudQ
app = CloudQ("x")
app.send_task("t")
print(json.dumps([name for name in {unwanted!r} if name in sys.modules]))
"""
    assert run(code, tmp_path) == []


def test_running_a_plain_task_loads_no_asyncio(tmp_path: Path) -> None:
    code = """
import json, sys
from cloudq import CloudQ
app = CloudQ("x")
@app.task
def divide(x: int, y: int) -> float: return x / y
states = [divide.apply((1, 2)).state, divide.apply((1, 0)).state]
print(json.dumps([states, "asyncio" in sys.modules]))
"""
    assert run(code, tmp_path) == [["SUCCESS", "FAILURE"], False]


def test_imports_run_downstairs() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout


def test_no_file_grows_into_a_god_file() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for path in (ROOT / "cloudq").rglob("*.py")
        if (count := len(path.read_text("utf-8").splitlines())) > 500
    }

    assert long == {}


def test_the_exported_names_are_what_is_exported() -> None:
    import cloudq

    assert sorted(cloudq.__all__) == list(cloudq.__all__)
    assert all(hasattr(cloudq, name) for name in cloudq.__all__)


def test_every_error_is_drawn_in_the_tree() -> None:
    from cloudq import errors

    classes = [v for v in vars(errors).values() if isinstance(v, type) and v.__module__ == "cloudq.errors"]
    assert [each.__name__ for each in classes if each.__name__ not in (errors.__doc__ or "")] == []
