"""Fixtures for all tests: AWS credentials that open nothing, and local servers, one per session."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

# --import-mode=importlib puts nothing on sys.path; tests share helpers as ``from servers import ...``.
sys.path.insert(0, str(Path(__file__).resolve().parent))

import ordering
import servers
from blob_servers import azurite, fake_gcs_url  # noqa: F401  fixtures


@pytest.hookimpl(trylast=True)  # what plugins group, and what -m leaves out, is settled by then
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow proofs run beside quick tests, where both are asked for."""

    def patience(item: pytest.Item) -> float:
        mark = item.get_closest_marker("timeout")
        return float(mark.args[0]) if mark is not None else 0.0

    def slow(item: pytest.Item) -> bool:
        return item.get_closest_marker("slow") is not None

    items[:] = ordering.mixed(items, slow, patience, lambda item: item.path)


@pytest.fixture(scope="session", autouse=True)
def aws_env() -> Iterator[None]:
    """Dummy credentials and region us-east-1 for the whole session, whatever the machine has set."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in servers.AWS_ENV.items():
            if value is None:
                patch.delenv(name, raising=False)
            else:
                patch.setenv(name, value)
        for name in [name for name in os.environ if name.startswith("CLOUDQ_") and "TEST" not in name]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def moto_url(tmp_path_factory: pytest.TempPathFactory, aws_env: None) -> Iterator[str]:
    """A moto server, shared by the session: use names of your own (``unique``)."""
    with servers.moto(tmp_path_factory.mktemp("moto")) as url:
        yield url


@pytest.fixture(scope="session")
def ministack_url(tmp_path_factory: pytest.TempPathFactory, aws_env: None) -> Iterator[str]:
    """A ministack server, shared by the session: use names of your own (``unique``)."""
    with servers.ministack(tmp_path_factory.mktemp("ministack")) as url:
        yield url


@pytest.fixture
def unique() -> str:
    """A short name nobody else has: for queues, tables and buckets on shared servers."""
    return f"t{uuid.uuid4().hex[:12]}"
