"""Which files of a project, of cloudq and of its dependencies a function needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import cloudq
from cloudq.errors import ImproperlyConfigured

#: Folders that never go in.
_SKIPPED: Final = frozenset({"__pycache__", "tests", "test", "node_modules", "bin"})
_SKIPPED_FILES: Final = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "conftest.py"})
_SKIPPED_ENDS: Final = (".pyc", ".pyo", ".pyi", ".c", ".pyx", ".pxd", ".h", ".orig", ".swp")
#: Parts of cloudq that no function runs.
_NOT_IN_LAMBDA: Final = frozenset({"cli", "testing", "demo", "worker"})

Files = dict[str, Path]


def wanted(path: Path) -> bool:
    """Does a file or folder of that name belong into a zip?"""
    name = path.name
    if name.startswith(".") or name in _SKIPPED_FILES or name.endswith(_SKIPPED_ENDS):
        return False
    return name not in _SKIPPED


def walk(folder: Path) -> Iterator[Path]:
    """The files of a folder that belong into a zip, by name."""
    for each in sorted(folder.iterdir()):
        if not wanted(each):
            continue
        if each.is_dir():
            yield from walk(each)
        elif each.is_file():
            yield each


def under(folder: Path, prefix: str = "") -> Files:
    """Name in the zip to file."""
    return {prefix + each.relative_to(folder).as_posix(): each for each in walk(folder)}


def own(worker: bool = False) -> Files:
    """cloudq itself: for a function without what only developers and workers need, for a ``worker`` all of it."""
    home = Path(cloudq.__file__).parent
    files = under(home, "cloudq/")
    left_out = {"_handlers"} if worker else {*_NOT_IN_LAMBDA, "_handlers", "__main__.py"}
    return {name: file for name, file in files.items() if name.split("/")[1] not in left_out}


def handlers() -> Files:
    """The functions of ``handlers/``: beside the package in a checkout, inside it in a wheel."""
    home = Path(cloudq.__file__).parent
    for place in (home / "_handlers", home.parent / "handlers"):
        if (place / "consume.py").is_file():
            return {f"handlers/{each.name}": each for each in sorted(place.glob("*.py"))}
    raise ImproperlyConfigured(f"this installation of cloudq has no handlers beside {home}: install it again")


def app(module: str, root: Path) -> Files:
    """The package or module that holds the app ``module`` (``shop.tasks:app``), found in ``root`` or ``root/src``."""
    top = module.partition(":")[0].partition(".")[0]
    for place in (root, root / "src"):
        if (place / top).is_dir():
            return under(place / top, f"{top}/")
        if (place / f"{top}.py").is_file():
            return {f"{top}.py": place / f"{top}.py"}
    raise ImproperlyConfigured(f"the app {module!r} is in no {top}/ or {top}.py in {root} or {root / 'src'}")


def named(given: str, root: Path) -> Files:
    """One more file or folder of the project, under the name it has there."""
    path = root / given
    try:
        name = path.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        raise ImproperlyConfigured(
            f"{given} is not inside {root}: a zip holds files of the project"
        ) from None
    if path.is_dir():
        return under(path, f"{name}/")
    if path.is_file():
        return {name: path}
    raise ImproperlyConfigured(f"there is no {given} in {root}")
