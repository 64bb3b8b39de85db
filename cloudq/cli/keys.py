"""``cloudq keys``: signing and encryption keys in a file."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from cloudq.cli.common import JsonOption, one_line_errors, out, print_json
from cloudq.security import keyfile

commands = typer.Typer(no_args_is_help=True, help="Keys that sign and encrypt messages and results.")

FileOption = Annotated[
    Path,
    typer.Option(
        "--file", "-f", envvar="CLOUDQ_SECURITY_KEY_FILE", help="The key file (setting security_key_file)."
    ),
]
KindOption = Annotated[str, typer.Option("--kind", help="signing or encryption.")]
AlgorithmOption = Annotated[
    str | None, typer.Option("--alg", help="hs256 or ed25519 (signing), a256gcm or kms (encryption).")
]
_FILE = Path("cloudq-keys.json")


def _kind(kind: str) -> str:
    if kind not in keyfile.KINDS:
        raise typer.BadParameter(f"--kind is signing or encryption, not {kind!r}")
    return kind


@commands.command("new")
def new(
    file: FileOption = _FILE,
    kind: KindOption = "signing",
    alg: AlgorithmOption = None,
    arn: Annotated[str | None, typer.Option("--arn", help="The KMS key's ARN, for --alg kms.")] = None,
) -> None:
    """Add a key. It only comes into use for writing when it is the first: see rotate."""
    with one_line_errors():
        name = keyfile.new_key(file, _kind(kind), time.time(), algorithm=alg, arn=arn)
    out.print(
        f"{kind} key {name} added to {file} (mode 600); use it with CLOUDQ_SECURITY_KEY_FILE={file}",
        markup=False,
        soft_wrap=True,
    )


@commands.command("rotate")
def rotate(
    file: FileOption = _FILE,
    kind: KindOption = "signing",
    alg: AlgorithmOption = None,
    overlap: Annotated[
        float, typer.Option("--overlap", min=0.0, help="Days that the old keys still read.")
    ] = 14.0,
) -> None:
    """Put a new key in front; the old ones only read from now on, and expire after the overlap.

    Give the file to all that read before those that write: an unknown key is refused.
    """
    with one_line_errors():
        name, retired = keyfile.rotate(file, _kind(kind), time.time(), overlap * 86_400.0, alg)
    old = f"; {', '.join(retired)} read for {overlap:g} more days" if retired else ""
    out.print(f"{kind} key {name} writes from now on{old}", markup=False, soft_wrap=True)


@commands.command("list")
def show(
    file: FileOption = _FILE,
    public: Annotated[
        bool, typer.Option("--public", help="Print the key file for those who only verify (Ed25519).")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """The keys, without their secrets."""
    with one_line_errors():
        if public:
            typer.echo(json.dumps(keyfile.public_keys(file), indent=1))
            return
        rows = keyfile.listed(file, time.time())
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    table = Table("kind", "key", "algorithm", "use", "created", "expires", "")
    for row in rows:
        end = (
            "" if row.expires is None else datetime.fromtimestamp(row.expires, UTC).strftime("%Y-%m-%d %H:%M")
        )
        state = "expired" if row.expired else "writes" if row.current else ""
        table.add_row(row.kind, row.id, row.algorithm, row.use, row.created or "", end, state)
    out.print(table)
