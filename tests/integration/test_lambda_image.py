"""The image of ``handlers/Dockerfile``, as far as it can be proven without a Docker engine.

Its instructions are read and carried out in a folder that stands for the image: variables in their scopes, COPY as
Docker copies, each RUN by a shell with the image's own Python and nothing else on it; the command then runs under
the runtime client that AWS's base images start, against a local Runtime API. What the base image itself holds
(its system libraries, its Python's build) is not proven.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from esm import Mapping
from runtime_api import Runtime

import cloudq
from cloudq import CloudQ
from cloudq.deploy.wheels import PYTHONS

pytest.importorskip("awslambdaric")

ROOT = Path(__file__).resolve().parents[2]

TASKS = """
from cloudq import CloudQ

app = CloudQ("shop")


@app.task(name="shop.add")
def add(x, y):
    return x + y
"""


def instructions(text: str) -> list[tuple[str, str]]:
    """A Dockerfile's instructions: without comments, continued lines as one."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    found = [line.strip().partition(" ") for line in joined.splitlines()]
    return [(word, rest.strip()) for word, _, rest in found]


def filled(text: str, values: dict[str, str]) -> str:
    """Variables replaced; one that is not declared in this place is an error, where Docker would take ''."""
    return re.sub(r"\$\{(\w+)\}", lambda found: values[found[1]], text)


class Image:
    """A folder in an image's place."""

    def __init__(self, folder: Path, context: Path, **given: str) -> None:
        self.task = folder / "var" / "task"
        self.task.mkdir(parents=True)
        self._context = context
        self._given = given
        self.base = self.command = ""
        self.python = folder / "lang" / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "lang")], check=True)
        pip = self.python.with_name("pip")
        pip.write_text(f'#!/bin/sh\nexec {sys.executable} -m pip --python {self.python} "$@"\n')
        pip.chmod(0o755)

    def build(self, text: str, **environment: str) -> None:
        """Carry the instructions out."""
        before: dict[str, str] = {}
        values: dict[str, str] | None = None  # an ARG before FROM counts for FROM alone
        for word, rest in instructions(text):
            scope = before if values is None else values
            if word == "ARG":
                name, _, default = rest.partition("=")
                scope[name] = self._given.get(name, default)
                assert scope[name], f"--build-arg {name}= is needed"
            elif word == "FROM":
                self.base = filled(rest, before)
                values = {"LAMBDA_TASK_ROOT": str(self.task)}
            elif word == "COPY":
                source, target = filled(rest, scope).split()
                self._copy(self._context / source, self.task / target)
            elif word == "RUN":
                self.run(filled(rest, scope), **environment)
            elif word == "CMD":
                self.command = json.loads(rest)[0]
            else:
                raise AssertionError(f"{word}: this test cannot tell what it does")

    def run(self, command: str, **environment: str) -> None:
        env = {"PATH": f"{self.python.parent}:/usr/bin:/bin", "HOME": str(self.task), **environment}
        done = subprocess.run(
            ["/bin/sh", "-c", command], cwd=self.task, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"RUN {command}\n{done.stdout}{done.stderr}"

    def _copy(self, source: Path, target: Path) -> None:
        if source.is_dir():  # Docker copies what is in a folder, not the folder
            shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        elif target.is_dir():
            shutil.copy(source, target)
        else:
            shutil.copy(source, target)


def wheel_of_this(shelf: Path) -> str:
    """cloudq as a wheel on the shelf; its pin."""
    about = distribution("cloudq-tasks")
    name = f"cloudq_tasks-{about.version}"
    shelf.mkdir(exist_ok=True)
    with zipfile.ZipFile(shelf / f"{name}-py3-none-any.whl", "w") as file:
        for folder, into in (
            (Path(cloudq.__file__).parent, "cloudq"),
            (ROOT / "handlers", "cloudq/_handlers"),
        ):
            for each in sorted(folder.rglob("*")):
                if each.is_file() and "__pycache__" not in each.parts:
                    file.write(each, f"{into}/{each.relative_to(folder)}")
        info = f"{name}.dist-info"
        file.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: cloudq-tasks\nVersion: {about.version}\n"
        )
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
    return f"cloudq-tasks=={about.version}"


def wheel_of(shelf: Path, name: str) -> str:
    """An installed package as a wheel again; its pin."""
    about = distribution(name)
    tag = re.search(r"^Tag: (\S+)$", about.read_text("WHEEL") or "", re.MULTILINE)
    assert tag is not None
    shelf.mkdir(exist_ok=True)
    with zipfile.ZipFile(shelf / f"{name.replace('-', '_')}-{about.version}-{tag[1]}.whl", "w") as file:
        for each in about.files or ():
            if ".." not in each.parts and "__pycache__" not in each.parts:
                file.write(str(about.locate_file(each)), str(each))
    return f"{name}=={about.version}"


def only(shelf: Path) -> dict[str, str]:
    """Settings of pip: everything is pinned and on the shelf, nothing is fetched."""
    return {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(shelf),
        "PIP_NO_DEPS": "1",
        "PIP_CONFIG_FILE": os.devnull,
    }


@pytest.mark.slow
def test_the_image_builds_and_its_command_runs_tasks(tmp_path: Path) -> None:
    context, shelf = tmp_path / "project", tmp_path / "shelf"
    (context / "shop").mkdir(parents=True)
    (context / "shop" / "__init__.py").write_text("")
    (context / "shop" / "tasks.py").write_text(TASKS)
    shutil.copytree(ROOT / "handlers", context / "handlers")
    pins = [wheel_of_this(shelf), wheel_of(shelf, "msgspec")]
    (context / "requirements.txt").write_text("\n".join(pins) + "\n")

    image = Image(tmp_path / "image", context, APP="shop")
    bring = [wheel_of(shelf, name) for name in ("awslambdaric", "simplejson", "snapshot-restore-py")]
    image.run(f"pip install -q {' '.join(bring)}", **only(shelf))  # as AWS's base image does
    image.build((ROOT / "handlers" / "Dockerfile").read_text(), **only(shelf))

    registry, _, python = image.base.partition(":")
    assert registry == "public.ecr.aws/lambda/python"
    assert python in PYTHONS
    assert list((image.task / "shop").glob("__pycache__/tasks.*.pyc")), "bytecode was made"

    urls = {
        "CLOUDQ_APP": "shop.tasks:app",
        "CLOUDQ_BROKER_URL": f"sqlite:///{tmp_path}/q.db?visibility_timeout=60",
        "CLOUDQ_RESULT_BACKEND": f"sqlite:///{tmp_path}/r.db",
    }
    with CloudQ("client", broker=urls["CLOUDQ_BROKER_URL"], backend=urls["CLOUDQ_RESULT_BACKEND"]) as app:
        sent = [app.send_task("shop.add", (n, 1)) for n in range(3)]
        env = {"PATH": os.environ["PATH"], **urls}
        runtime = Runtime(image.command, image.task, env, python=str(image.python))
        try:
            invoke = Mapping(
                app,
                lambda event, context: runtime.invoke(event, context.get_remaining_time_in_millis() / 1000),
            )
            assert invoke.once(seconds=60.0) == []
        finally:
            runtime.close()
        assert [each.get(timeout=1) for each in sent] == [1, 2, 3]


def test_a_variable_that_is_not_declared_where_it_is_used_is_seen() -> None:
    with pytest.raises(KeyError, match="APP"):
        filled("${APP} ${LAMBDA_TASK_ROOT}/${APP}", {"LAMBDA_TASK_ROOT": "/var/task"})
    assert instructions("# x\nRUN a \\\n  b\n\nCMD []") == [("RUN", "a    b"), ("CMD", "[]")]
