"""The Terraform modules: formatted, valid, and their own tests (``terraform test``, nothing real) pass."""

import subprocess
from pathlib import Path

import pytest
import terraform_cli
from terraform_cli import EXAMPLES, MODULES, OTHER_CLOUDS, TERRAFORM, folders

AWS_MODULES = [name for name in folders(MODULES) if name not in OTHER_CLOUDS]


def test_everything_is_formatted() -> None:
    done = subprocess.run(
        [terraform_cli.command(), "fmt", "-check", "-diff", "-recursive", str(TERRAFORM)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", AWS_MODULES)
def test_a_module_is_valid_and_its_tests_pass(name: str, tmp_path: Path) -> None:
    terraform = terraform_cli.prepare(tmp_path, f"modules/{name}")

    terraform.run("validate", "-no-color")
    tested = terraform.run("test", "-no-color").stdout

    assert "0 failed" in tested
    assert "0 passed" not in tested, "the module has no test"


@pytest.mark.slow
@pytest.mark.parametrize("name", folders(EXAMPLES) if EXAMPLES.exists() else [])
def test_an_example_is_valid(name: str, tmp_path: Path) -> None:
    terraform_cli.prepare(tmp_path, f"examples/{name}").run("validate", "-no-color")
