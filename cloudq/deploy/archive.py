"""A zip whose bytes depend on what is in it and on nothing else."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path
from typing import Final

from cloudq.deploy.contents import Files

#: The oldest time a zip can tell: every file has it.
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
_UNIX: Final = 3


def write(files: Files, target: Path) -> tuple[int, int]:
    """Write the zip, whole or not at all; returns its size and that of what is in it, bytes."""
    unpacked = 0
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for name in sorted(files):
                data = files[name].read_bytes()
                unpacked += len(data)
                info = zipfile.ZipInfo(name, _EPOCH)
                info.compress_type = zipfile.ZIP_DEFLATED
                info.create_system = _UNIX
                runnable = bool(files[name].stat().st_mode & 0o100)
                info.external_attr = (0o100755 if runnable else 0o100644) << 16
                archive.writestr(info, data, compresslevel=9)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target.stat().st_size, unpacked


def digest(file: Path) -> str:
    """Base64 of the SHA-256: Lambda's CodeSha256, Terraform's source_code_hash."""
    return base64.b64encode(hashlib.sha256(file.read_bytes()).digest()).decode()
