"""Real servers on 127.0.0.1 for tests: started on a free port, waited for, stopped at the end."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
#: Loaded here because little is safe between fork and exec.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
#: Seconds a server may take to answer first.
START_TIMEOUT = 30.0

#: What tests run AWS SDKs with. Values of None are removed: a machine's own profile, certificate
#: bundle or endpoint must not reach a test.
AWS_ENV: Mapping[str, str | None] = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "NO_PROXY": "127.0.0.1,localhost",
    "AWS_SESSION_TOKEN": None,
    "AWS_PROFILE": None,
    "AWS_CA_BUNDLE": None,
    "AWS_ENDPOINT_URL": None,
    "AWS_ROLE_ARN": None,
    "AWS_WEB_IDENTITY_TOKEN_FILE": None,
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": None,
    "AWS_CONTAINER_CREDENTIALS_FULL_URI": None,
}


def free_port() -> int:
    """A port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(**changes: str) -> dict[str, str]:
    """This process's environment with the test credentials: for servers and other subprocesses."""
    merged: dict[str, str | None] = {**os.environ, **AWS_ENV, **changes}
    return {name: value for name, value in merged.items() if value is not None}


@contextlib.contextmanager
def running(command: Sequence[str], url: str, env: Mapping[str, str], log: Path) -> Iterator[str]:
    """Run a server until the block ends; yields its URL once it has answered an HTTP request."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=dict(env),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
    try:
        _wait_for_answer(process, url, log)
        yield url
    finally:
        _stop(process)


def _die_with_parent() -> None:
    """A test run that is killed (a timeout, Ctrl-C twice) leaves no server behind."""
    _LIBC.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _wait_for_answer(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + START_TIMEOUT
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}: {log.read_text()[-2000:]}")
        try:
            with opener.open(url, timeout=5):
                return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.02)
    raise RuntimeError(f"{process.args!r} gave no answer at {url} in {START_TIMEOUT} s")


def _stop(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def absent(what: str, how: str) -> None:
    """Skip for lack of a server; in CI that is a failure."""
    text = f"{what} is not installed: {how}"
    if os.environ.get("CI"):
        pytest.fail(text)
    pytest.skip(text)


def moto_command() -> str | None:
    """moto_server of this virtual environment, or of PATH."""
    beside = Path(sys.executable).with_name("moto_server")
    return str(beside) if beside.exists() else shutil.which("moto_server")


def ministack_command() -> str | None:
    """``CLOUDQ_TEST_MINISTACK``, else the repository's ``.venv-ministack``, else PATH.

    It runs Lambda functions with its own packages importable, so it has an environment of its own.
    """
    if given := os.environ.get("CLOUDQ_TEST_MINISTACK"):
        return given
    own = ROOT / ".venv-ministack" / "bin" / "ministack"
    return str(own) if own.exists() else shutil.which("ministack")


@contextlib.contextmanager
def moto(folder: Path) -> Iterator[str]:
    """A moto server of one's own; yields its URL. Slow with more than a hundred queued messages."""
    command = moto_command()
    if command is None:
        absent("moto_server", 'pip install "moto[server]"')
    port = free_port()
    arguments = [str(command), "-H", "127.0.0.1", "-p", str(port)]
    with running(arguments, f"http://127.0.0.1:{port}", environment(), folder / "moto.log") as url:
        yield url


@contextlib.contextmanager
def ministack(folder: Path) -> Iterator[str]:
    """A ministack server of one's own; yields its URL. Its long poll looks every 0.1 s."""
    command = ministack_command()
    if command is None:
        absent("ministack", "make a virtual environment .venv-ministack and install ministack in it")
    port = free_port()
    env = environment(BIND_HOST="127.0.0.1", GATEWAY_PORT=str(port), LOG_LEVEL="WARNING", TMPDIR=str(folder))
    with running([str(command)], f"http://127.0.0.1:{port}", env, folder / "ministack.log") as url:
        yield url


@contextlib.contextmanager
def microburst(folder: Path, upstream: str) -> Iterator[str]:
    """A fault proxy before ``upstream``; yields its URL. Its first AWS request takes seconds, made here."""
    beside = Path(sys.executable).with_name("microburst")
    command = str(beside) if beside.exists() else shutil.which("microburst")
    if command is None:
        absent("microburst", "pip install microburst")
    port = free_port()
    arguments = [str(command), "--upstream", upstream, "--host", "127.0.0.1", "--port", str(port)]
    health = f"http://127.0.0.1:{port}/_microburst/health"
    with running(arguments, health, environment(), folder / "microburst.log"):
        yield f"http://127.0.0.1:{port}"
