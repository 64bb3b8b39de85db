"""Dependencies for another platform than this one: wheels only, versions pinned, nothing built here."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloudq.errors import ImproperlyConfigured

#: Lambda's names of architectures, and Python's.
ARCHITECTURES: Final = {"x86_64": "x86_64", "arm64": "aarch64"}
#: Python versions that Lambda runs ("Lambda runtimes" in its Developer Guide), and the newest glibc a wheel may
#: ask for there: Amazon Linux 2 has 2.26, Amazon Linux 2023 has 2.34.
PYTHONS: Final = {"3.11": 26, "3.12": 34, "3.13": 34, "3.14": 34}
#: What Lambda's own Python brings along.
SDK: Final = ("boto3", "botocore", "s3transfer", "jmespath")

_PIN: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(\[[^\]]*\])?\s*===?\s*([^\s;\\*]+)")
_NAME: Final = re.compile(r"[-_.]+")


@dataclass(frozen=True, slots=True)
class Target:
    """Where it is to run."""

    python: str
    arch: str

    def __post_init__(self) -> None:
        if self.arch not in ARCHITECTURES:
            raise ImproperlyConfigured(f"Lambda has the architectures x86_64 and arm64, not {self.arch!r}")
        if self.python not in PYTHONS:
            raise ImproperlyConfigured(
                f"cloudq runs on Lambda's Python {', '.join(PYTHONS)}, not {self.python!r}"
            )

    @property
    def platforms(self) -> list[str]:
        """Tags of wheels that work there, newest first."""
        machine = ARCHITECTURES[self.arch]
        found = [f"manylinux_2_{minor}_{machine}" for minor in range(PYTHONS[self.python], 16, -1)]
        return [*found, f"manylinux2014_{machine}"]


def normal(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return _NAME.sub("-", name).lower()


def pins_of(text: str, source: str) -> dict[str, str]:
    """Name to version of a requirements file in which everything is pinned. Raises ImproperlyConfigured."""
    pins: dict[str, str] = {}
    for number, line in enumerate(text.replace("\\\n", " ").splitlines(), 1):
        line = re.sub(r"(^|\s)#.*", "", line).strip()
        if not line or line.startswith(
            ("--hash", "--index-url", "--extra-index-url", "--find-links", "--only-binary")
        ):
            continue
        found = _PIN.match(line)
        if found is None:
            raise ImproperlyConfigured(
                f"{source}, line {number}: {line!r} is not pinned to one version; make a file that is with "
                "`uv pip compile` or `pip freeze`"
            )
        pins[normal(found[1])] = found[3]
    return pins


def install(requirements: list[Path], own: list[str], folder: Path, target: Target) -> None:
    """Unpack the wheels of ``requirements`` files and ``own`` pins into ``folder``. Raises
    ImproperlyConfigured with the installer's own words, and when something unpinned came along."""
    pins = {normal(each.partition("==")[0]): each.partition("==")[2] for each in own}
    for each in requirements:
        if not each.is_file():
            raise ImproperlyConfigured(f"there is no requirements file {each}")
        pins.update(pins_of(each.read_text("utf-8"), each.name))
    wanted = [line for line in own if pins[normal(line.partition("==")[0])] == line.partition("==")[2]]
    command = [
        *_command(folder, target),
        *(part for each in requirements for part in ("-r", str(each))),
        *wanted,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  our own words
    if done.returncode:
        words = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise ImproperlyConfigured(
            f"the dependencies for Python {target.python} on {target.arch} cannot be installed as wheels:\n  "
            + "\n  ".join(words[-6:])
        )
    _check(folder, pins)


def _command(folder: Path, target: Target) -> list[str]:
    uv = shutil.which("uv")
    if uv is not None:
        minor, machine = PYTHONS[target.python], ARCHITECTURES[target.arch]
        # uv knows platforms by name; 2_28 is the newest that both Amazon Linuxes' wheels are made for
        platform = f"{machine}-manylinux_2_28" if minor >= 28 else f"{machine}-manylinux2014"
        return [
            uv, "pip", "install", "--quiet", "--target", str(folder), "--python-version", target.python,
            "--python-platform", platform, "--only-binary", ":all:", "--no-compile-bytecode",
        ]  # fmt: skip
    platforms = [part for each in target.platforms for part in ("--platform", each)]
    return [
        sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "--no-compile",
        "--target", str(folder), "--python-version", target.python, "--implementation", "cp", *platforms,
        "--only-binary", ":all:",
    ]  # fmt: skip


def _check(folder: Path, pins: dict[str, str]) -> None:
    loose = {name: version for name, version in installed(folder).items() if name not in pins}
    if loose:
        names = ", ".join(f"{name}=={version}" for name, version in sorted(loose.items()))
        raise ImproperlyConfigured(
            f"your requirements bring along what they do not pin: add {names} (`uv pip compile` writes such files)"
        )


def installed(folder: Path) -> dict[str, str]:
    """Name to version of the distributions in a folder."""
    found = (each.name.removesuffix(".dist-info").rpartition("-") for each in folder.glob("*.dist-info"))
    return {normal(name): version for name, _, version in found}


def drop(folder: Path, names: tuple[str, ...]) -> list[str]:
    """Remove distributions; returns those that were there."""
    gone = [name for name in installed(folder) if name in names]
    for name in gone:
        for info in folder.glob("*.dist-info"):
            if normal(info.name.removesuffix(".dist-info").rpartition("-")[0]) == name:
                record = (info / "RECORD").read_text("utf-8").splitlines()
                tops = {line.split("/")[0].split(",")[0] for line in record} - {"..", ""}
                for top in tops:
                    place = folder / top
                    shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    return gone
