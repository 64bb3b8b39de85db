"""cloudq package --worker: a zip that also serves `cloudq worker` on a machine with nothing but Python."""

from pathlib import Path

import pytest

from cloudq.deploy import contents, package
from cloudq.errors import ImproperlyConfigured


def test_a_workers_zip_has_the_command_and_a_functions_has_not() -> None:
    needed = {"cloudq/__main__.py", "cloudq/cli/main.py", "cloudq/worker/worker.py"}
    assert needed <= set(contents.own(worker=True))
    assert not needed & set(contents.own())


def test_what_a_worker_lacks_is_named(tmp_path: Path) -> None:
    (tmp_path / "boto3").mkdir()
    with pytest.raises(ImproperlyConfigured, match="also needs typer, rich"):
        package._can_work(tmp_path)
    (tmp_path / "typer").mkdir()
    (tmp_path / "rich").mkdir()
    package._can_work(tmp_path)
