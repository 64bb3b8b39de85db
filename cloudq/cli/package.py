"""``cloudq package``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from cloudq.cli.common import AppOption, JsonOption, err, one_line_errors, out, print_json
from cloudq.deploy.package import Built, Order, build
from cloudq.deploy.wheels import Target


def package(
    app: AppOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The zip; default function.zip.")
    ] = None,
    arch: Annotated[str, typer.Option(help="x86_64 or arm64.")] = "x86_64",
    python: Annotated[
        str, typer.Option(help="Lambda's Python: 3.11 to 3.14.")
    ] = f"{sys.version_info[0]}.{sys.version_info[1]}",
    requirements: Annotated[
        list[Path] | None,
        typer.Option(
            "--requirements", "-r", help="Pinned requirements; default requirements.txt, if there is one."
        ),
    ] = None,
    include: Annotated[
        list[str] | None, typer.Option("--include", "-i", help="One more file or folder of the project.")
    ] = None,
    layer: Annotated[
        bool, typer.Option("--layer", help="Build a layer; without -A, of dependencies alone.")
    ] = False,
    with_boto3: Annotated[
        bool, typer.Option("--with-boto3", help="Keep the SDK that Lambda has of its own.")
    ] = False,
    worker: Annotated[
        bool,
        typer.Option("--worker", help="Also fit for `cloudq worker` on EC2: with its command and boto3."),
    ] = False,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Add bytecode: faster cold starts. Needs the same Python here.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Build a function's zip (or a layer): the app, cloudq and its handlers, and pinned wheels."""
    with one_line_errors():
        root = Path.cwd()
        default = root / "requirements.txt"
        named = tuple(requirements or ([default] if default.is_file() else []))
        built = build(
            Order(
                target=Target(python, arch),
                output=output or root / ("layer.zip" if layer else "function.zip"),
                root=root,
                app=app or (None if layer else os.environ.get("CLOUDQ_APP")),
                requirements=named,
                include=tuple(include or ()),
                layer=layer,
                with_sdk=with_boto3,
                worker=worker,
                compiled=compiled,
            )
        )
        for each in built.warnings:
            err.print(f"warning: {each}", style="yellow", markup=False, soft_wrap=True)
        if as_json:
            print_json(
                {
                    "path": str(built.path),
                    "size": built.size,
                    "unpacked": built.unpacked,
                    "files": built.files,
                    "sha256": built.sha256,
                    "left_out": list(built.left_out),
                    "warnings": list(built.warnings),
                }
            )
        else:
            _show(built, python, arch, layer)


def _show(built: Built, python: str, arch: str, layer: bool) -> None:
    out.print(
        f"{built.path}: {built.size / 1e6:.2f} MB, {built.unpacked / 1e6:.2f} MB unpacked, {built.files} files"
    )
    out.print(f"  Python {python} on {arch}, sha256 {built.sha256}", markup=False, soft_wrap=True)
    if built.left_out:
        out.print(f"  left out, Lambda has them: {', '.join(built.left_out)}", markup=False)
    if not layer:
        names = ", ".join(f"handlers.{each}.handler" for each in ("consume", "beat", "redrive", "api"))
        out.print(f"  handlers: {names}", markup=False, soft_wrap=True)
