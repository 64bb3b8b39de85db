"""``cloudq package``: the same bytes for the same input, for another platform, with what a function needs."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from cloudq.deploy import package as package_module
from cloudq.deploy import wheels
from cloudq.deploy.package import Built, Order, build
from cloudq.deploy.wheels import ARCHITECTURES, Target, pins_of
from cloudq.errors import ImproperlyConfigured

TARGET = Target("3.12", "arm64")


def wheel(
    folder: Path, name: str, number: str, tag: str = "py3-none-any", requires: str = "", **files: str
) -> None:
    """A wheel of these modules."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-{number}.dist-info"
    meta = f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n"
    contents = {
        f"{name}/__init__.py": f"tag = {tag!r}\n",
        **{key.replace("__", "/"): value for key, value in files.items()},
        f"{info}/METADATA": meta + (f"Requires-Dist: {requires}\n" if requires else ""),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    record = "".join(f"{each},,\n" for each in contents) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(folder / f"{name}-{number}-{tag}.whl", "w") as archive:
        for each, text in {**contents, f"{info}/RECORD": record}.items():
            archive.writestr(each, text)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where wheels come from."""
    folder = tmp_path / "wheels"
    for machine in ("x86_64", "aarch64"):
        wheel(folder, "msgspec", version("msgspec"), f"cp312-cp312-manylinux2014_{machine}")
    for name in ("PIP_NO_INDEX", "UV_NO_INDEX"):
        monkeypatch.setenv(name, "1")
    for name in ("PIP_FIND_LINKS", "UV_FIND_LINKS"):
        monkeypatch.setenv(name, str(folder))
    for name in (
        "PIP_INDEX_URL",
        "PIP_EXTRA_INDEX_URL",
        "UV_INDEX_URL",
        "UV_DEFAULT_INDEX",
        "PIP_CONFIG_FILE",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    return folder


@pytest.fixture
def unpacked(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wheels are unpacked without the seconds that an installer takes."""

    def install(requirements: list[Path], own: list[str], folder: Path, target: Target) -> None:
        pins = {name: number for name, _, number in (each.partition("==") for each in own)}
        for each in requirements:
            pins.update(pins_of(each.read_text(), each.name))
        machine = ARCHITECTURES[target.arch]
        for name, number in pins.items():
            [found] = [
                w for w in shelf.glob(f"{name}-{number}-*.whl") if machine in w.name or "none-any" in w.name
            ]
            zipfile.ZipFile(found).extractall(folder)

    monkeypatch.setattr(wheels, "install", install)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / "shop" / "tests").mkdir(parents=True)
    (root / "shop" / "__pycache__").mkdir()
    (root / "shop" / "__init__.py").write_text("")
    (root / "shop" / "tasks.py").write_text("from cloudq import CloudQ\napp = CloudQ('shop')\n")
    (root / "shop" / "tests" / "test_tasks.py").write_text("")
    (root / "shop" / "__pycache__" / "tasks.cpython-311.pyc").write_text("")
    (root / "shop" / ".env").write_text("SECRET=1")
    (root / "data").mkdir()
    (root / "data" / "rates.json").write_text("{}")
    return root


@pytest.fixture
def make(project: Path, shelf: Path) -> Callable[..., Built]:
    def order(
        name: str = "f.zip", target: Target = TARGET, requirements: str = "", **options: object
    ) -> Built:
        files: tuple[Path, ...] = ()
        if requirements:
            files = (project / "requirements.txt",)
            files[0].write_text(requirements)
        options = {"app": "shop.tasks:app", **options}
        return build(Order(target, project.parent / name, project, requirements=files, **options))  # type: ignore[arg-type]

    return order


def names(built: Built) -> set[str]:
    return set(zipfile.ZipFile(built.path).namelist())


@pytest.mark.usefixtures("unpacked")
def test_what_is_in_it(make: Callable[..., Built]) -> None:
    found = names(make(include=("data",)))

    assert {"shop/tasks.py", "cloudq/app.py", "cloudq/aws_lambda/handler.py", "handlers/consume.py"} <= found
    assert {"msgspec/__init__.py", "data/rates.json"} <= found
    unwanted = ("tests/", "__pycache__", ".env", "cloudq/cli/", "cloudq/testing/", "RECORD", ".pyi")
    assert not [each for each in found if any(word in each for word in unwanted)]


@pytest.mark.usefixtures("unpacked")
def test_the_same_input_gives_the_same_bytes(make: Callable[..., Built], project: Path) -> None:
    first = make("a.zip")
    for each in project.rglob("*.py"):
        os.utime(each, (1, 1))
    second = make("b.zip")

    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.sha256 == second.sha256
    assert len(base64.b64decode(first.sha256)) == 32
    (project / "shop" / "tasks.py").write_text("app = None\n")
    assert make("c.zip").sha256 != first.sha256


@pytest.mark.parametrize(("arch", "machine"), [("x86_64", "x86_64"), ("arm64", "aarch64")])
def test_wheels_are_those_of_the_functions_platform(
    make: Callable[..., Built], arch: str, machine: str
) -> None:
    built = make(target=Target("3.12", arch))
    with zipfile.ZipFile(built.path) as archive:
        assert machine in archive.read("msgspec/__init__.py").decode()


def test_what_has_no_wheel_there_is_an_error_that_names_it(make: Callable[..., Built], shelf: Path) -> None:
    wheel(shelf, "native", "1.0", "cp312-cp312-win_amd64")
    with pytest.raises(ImproperlyConfigured, match=r"(?s)Python 3.12 on arm64.*native"):
        make(requirements="native==1.0\n")


def test_every_dependency_is_pinned(make: Callable[..., Built], shelf: Path) -> None:
    wheel(shelf, "outer", "1.0", requires="inner")
    wheel(shelf, "inner", "2.0")
    with pytest.raises(ImproperlyConfigured, match=r"add inner==2\.0"):
        make(requirements="outer==1.0\n")
    with pytest.raises(ImproperlyConfigured, match="line 2: 'inner>=1' is not pinned"):
        make(requirements="outer==1.0\ninner>=1\n")


def test_what_uv_and_pip_write_is_read() -> None:
    text = (
        "# by uv\nA.b==1.0 \\\n    --hash=sha256:00\n    # via c\nc[d]==2 ; python_version < '3.13'\n"
        "--index-url https://x\ne===3.0+local\n"
    )
    assert pins_of(text, "r.txt") == {"a-b": "1.0", "c": "2", "e": "3.0+local"}


@pytest.mark.usefixtures("unpacked")
def test_the_sdk_stays_out_because_lambda_has_it(make: Callable[..., Built], shelf: Path) -> None:
    for name in ("boto3", "botocore"):
        wheel(shelf, name, "1.40.0")
    pins = "boto3==1.40.0\nbotocore==1.40.0\n"
    built = make(requirements=pins)
    assert set(built.left_out) == {"boto3", "botocore"}
    assert not [each for each in names(built) if each.startswith("boto")]
    assert "boto3/__init__.py" in names(make("b.zip", requirements=pins, with_sdk=True))


@pytest.mark.usefixtures("unpacked")
def test_a_layer_has_its_folder_and_no_app(make: Callable[..., Built]) -> None:
    found = names(make(layer=True, app=None))
    assert all(each.startswith("python/") for each in found)
    assert "python/cloudq/app.py" in found
    assert not [each for each in found if "shop" in each]


@pytest.mark.usefixtures("unpacked")
def test_a_function_without_an_app_is_refused(make: Callable[..., Built]) -> None:
    with pytest.raises(ImproperlyConfigured, match="which app"):
        make(app=None)
    with pytest.raises(ImproperlyConfigured, match=r"no shopp/ or shopp\.py"):
        make(app="shopp:app")
    with pytest.raises(ImproperlyConfigured, match="not inside"):
        make(include=("../elsewhere",))


@pytest.mark.parametrize(
    ("python", "arch", "words"), [("3.9", "arm64", "3.11"), ("3.13", "aarch64", "arm64")]
)
def test_what_lambda_does_not_have(python: str, arch: str, words: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=words):
        Target(python, arch)


@pytest.mark.usefixtures("unpacked")
def test_sizes_near_and_over_the_limit(
    make: Callable[..., Built], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    unpacked = make().unpacked
    monkeypatch.setattr(package_module, "MOST_UNPACKED", int(unpacked * 1.05))
    assert "near Lambda's limit" in make().warnings[0]
    monkeypatch.setattr(package_module, "MOST_UNPACKED", unpacked - 1)
    with pytest.raises(ImproperlyConfigured, match="container image"):
        make()
    assert not (tmp_path / "f.zip").exists()


@pytest.mark.usefixtures("unpacked")
def test_bytecode_is_only_made_by_the_same_python(make: Callable[..., Built]) -> None:
    other = "3.12" if sys.version_info[:2] != (3, 12) else "3.13"
    with pytest.raises(ImproperlyConfigured, match="bytecode"):
        make(target=Target(other, "arm64"), compiled=True)


@pytest.mark.slow
def test_everything_in_it_can_be_imported_on_its_own(project: Path, tmp_path: Path) -> None:
    """With real wheels: the zip alone, on a Python that has nothing else."""
    here = Target(f"{sys.version_info[0]}.{sys.version_info[1]}", "x86_64")
    built = build(Order(here, tmp_path / "f.zip", project, app="shop.tasks:app", compiled=True))
    again = build(Order(here, tmp_path / "g.zip", project, app="shop.tasks:app", compiled=True))
    assert built.sha256 == again.sha256, "bytecode, too, is the same each time"
    folder = tmp_path / "task"
    zipfile.ZipFile(built.path).extractall(folder)
    code = f"""
import sys, json
sys.path.insert(0, {str(folder)!r})
import handlers.beat
import handlers.consume
import cloudq.aws_lambda.api, cloudq.aws_lambda.redrive
outside = [m.__name__ for m in list(sys.modules.values()) if 'site-packages' in str(getattr(m, '__file__', ''))]
print(json.dumps([handlers.consume.handler({{'Records': []}}, None), outside, cloudq.__cached__ or '']))
"""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("CLOUDQ_", "PYTHON"))}
    environment = {
        **clean,
        "CLOUDQ_APP": "shop.tasks:app",
        "CLOUDQ_BROKER_URL": "sqs://?region=eu-west-1",
        "CLOUDQ_RESULT_BACKEND": "dynamodb://results?region=eu-west-1",
        "AWS_LAMBDA_FUNCTION_NAME": "f",
    }
    command = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer, outside, _ = json.loads(done.stdout)
    assert answer == {"batchItemFailures": []}
    assert outside == []
