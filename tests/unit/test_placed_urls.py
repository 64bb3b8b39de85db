"""What the worker's and the beat's first lines say of a file that another folder's program would not find."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloudq.cli.common import placed


@pytest.mark.parametrize("url", ["sqlite:///.cloudq/cloudq.db", "file:///results?fsync=false"])
def test_a_relative_file_is_shown_with_the_folder_it_is_found_from(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert placed(url) == f"{url} (in {tmp_path})"


@pytest.mark.parametrize("url", ["sqlite:////var/q.db", "sqs://?region=eu-west-1", "memory://", "sqlite:///"])
def test_what_means_the_same_everywhere_is_shown_as_it_is(url: str) -> None:
    assert placed(url) == url
