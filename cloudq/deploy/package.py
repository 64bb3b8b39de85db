"""A function's zip, or a layer: the app, cloudq, pinned wheels; the same input gives the same bytes."""

from __future__ import annotations

import compileall
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

from cloudq.deploy import archive, contents, wheels
from cloudq.deploy.wheels import Target
from cloudq.errors import ImproperlyConfigured

#: Lambda's limits, bytes ("Lambda quotas"): unpacked with all layers, and a zip that is uploaded directly.
MOST_UNPACKED: Final = 250 * 1024 * 1024
MOST_DIRECT: Final = 50 * 1024 * 1024
#: Share of a limit from which on there is a warning.
NEAR: Final = 0.9
#: What cloudq itself needs in a function besides the SDK.
NEEDS: Final = ("msgspec",)
#: What ``cloudq worker`` needs besides: on a machine where nothing is installed.
WORKER_NEEDS: Final = ("boto3", "typer", "rich")


@dataclass(frozen=True, slots=True)
class Order:
    """What to build. ``app`` is ``module:app``; None (for layers): without an app."""

    target: Target
    output: Path
    root: Path
    app: str | None = None
    requirements: tuple[Path, ...] = ()
    include: tuple[str, ...] = ()
    layer: bool = False
    with_sdk: bool = False
    worker: bool = False
    compiled: bool = False


@dataclass(frozen=True, slots=True)
class Built:
    """What was built. Sizes in bytes; ``sha256`` is base64, as Lambda and Terraform write it."""

    path: Path
    size: int
    unpacked: int
    files: int
    sha256: str
    left_out: tuple[str, ...]
    warnings: tuple[str, ...]


def build(order: Order) -> Built:
    """Build it. Raises ImproperlyConfigured, also when Lambda would not take it."""
    if order.app is None and not order.layer:
        raise ImproperlyConfigured("which app? Give -A module:app, or --layer for one without an app")
    with tempfile.TemporaryDirectory(prefix="cloudq-package-") as temporary:
        folder = Path(temporary) / "site"
        folder.mkdir()
        own = [f"{name}=={version(name)}" for name in NEEDS]
        wheels.install(list(order.requirements), own, folder, order.target)
        if order.worker:
            _can_work(folder)
        left_out = [] if order.with_sdk or order.worker else wheels.drop(folder, wheels.SDK)
        files = {**contents.under(folder), **contents.own(order.worker), **contents.handlers()}
        if order.app is not None:
            files |= contents.app(order.app, order.root)
        for each in order.include:
            files |= contents.named(each, order.root)
        if order.compiled:
            files |= _compiled(files, Path(temporary) / "compiled", order.target)
        if order.layer:
            files = {f"python/{name}": file for name, file in files.items()}
        size, unpacked = archive.write(files, order.output)
    if unpacked > MOST_UNPACKED:
        order.output.unlink()
        raise ImproperlyConfigured(
            f"{_mb(unpacked)} unpacked is more than Lambda takes ({_mb(MOST_UNPACKED)}): use a container image "
            "(docs/lambda.md), or leave something out"
        )
    return Built(
        order.output,
        size,
        unpacked,
        len(files),
        archive.digest(order.output),
        tuple(left_out),
        _near(size, unpacked),
    )


def _can_work(folder: Path) -> None:
    missing = [each for each in WORKER_NEEDS if not (folder / each).is_dir()]
    if missing:
        raise ImproperlyConfigured(
            f"a worker also needs {', '.join(missing)}: pin them and what they need in the requirements "
            "(`uv pip compile` from a file with boto3, typer and rich writes such pins)"
        )


def _near(size: int, unpacked: int) -> tuple[str, ...]:
    found = []
    if unpacked > NEAR * MOST_UNPACKED:
        found.append(
            f"{_mb(unpacked)} unpacked is near Lambda's limit of {_mb(MOST_UNPACKED)}, layers included"
        )
    if size > MOST_DIRECT:
        found.append(
            f"{_mb(size)} is too large for a direct upload ({_mb(MOST_DIRECT)}): put it into S3 first"
        )
    return tuple(found)


def _mb(size: int) -> str:
    return f"{size / 1024 / 1024:.1f} MB"


def _compiled(files: contents.Files, folder: Path, target: Target) -> contents.Files:
    """Bytecode for every module, checked against nothing at import: Lambda's file system never changes."""
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if here != target.python:
        raise ImproperlyConfigured(
            f"bytecode for Python {target.python} is made by Python {target.python}; this is {here}"
        )
    for name, file in files.items():
        if name.endswith(".py"):
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(file.read_bytes())
    # In a process of its own: what this one has interned shows in the bytes.
    command = [
        sys.executable, "-I", "-m", compileall.__name__, "-q", "-s", str(folder), "--invalidation-mode",
        "unchecked-hash", str(folder),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603  pip, as a list
    if done.returncode:
        raise ImproperlyConfigured(f"not all modules can be compiled:\n{done.stdout.strip()[-2000:]}")
    return {
        each.relative_to(folder).as_posix(): each for each in sorted(folder.rglob("*.pyc")) if each.is_file()
    }
