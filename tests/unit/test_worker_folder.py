"""The worker's own folder: what killed workers left is swept, and nothing else."""

import os
import re
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cloudq.worker import folder


def test_what_a_killed_worker_left_is_swept_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here = re.sub("[^A-Za-z0-9.]", "_", socket.gethostname())
    dead, alive, elsewhere, other = (
        tmp_path / name
        for name in (
            f"cloudq-worker-{here}-{gone.pid}-abc",
            f"cloudq-worker-{here}-{os.getpid()}-abc",
            f"cloudq-worker-elsewhere-{gone.pid}-abc",
            f"cloudq-worker-{here}-notes",
        )
    )
    for each in (dead, alive, elsewhere, other):
        each.mkdir()
        (each / "worker.db").touch()

    with folder.make() as mine:
        assert Path(mine).parent == tmp_path
        assert Path(mine).name.startswith(f"cloudq-worker-{here}-{os.getpid()}-")
    assert not Path(mine).exists()
    assert [each.exists() for each in (dead, alive, elsewhere, other)] == [False, True, True, True]
