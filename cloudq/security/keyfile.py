"""The key file: new keys, rotation with an overlap, the public parts for those who only verify."""

from __future__ import annotations

import base64
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cloudq.errors import ImproperlyConfigured
from cloudq.security.keys import AES, ED25519, HMAC, KMS, read_key, read_key_file
from cloudq.security.signing import public_part

#: SQS keeps a message for at most 14 days: so long an old key must still verify.
OVERLAP: Final = 14 * 86_400.0
#: kind -> (algorithm when none is named, all)
KINDS: Final = {"signing": (HMAC, (HMAC, ED25519)), "encryption": (AES, (AES, KMS))}


@dataclass(frozen=True, slots=True)
class Listed:
    """A key as it may be shown."""

    kind: str
    id: str
    algorithm: str
    use: str
    created: str | None
    expires: float | None
    expired: bool
    #: This is the one that new messages are signed or encrypted with.
    current: bool
    public: str | None


def new_key(
    path: Path, kind: str, now: float, *, algorithm: str | None = None, arn: str | None = None
) -> str:
    """Add a key that reads already and writes once it is the first that may; returns its id.

    The first key of its kind writes at once. Raises ImproperlyConfigured.
    """
    with _changed(path) as found:
        keys = found[kind]
        name = _name(keys, now)
        parts = _new_parts(kind, algorithm, arn, now)
        keys[name] = parts
        return name


def rotate(
    path: Path, kind: str, now: float, overlap: float = OVERLAP, algorithm: str | None = None
) -> tuple[str, list[str]]:
    """A new key in front; the others only read from now on, for ``overlap`` seconds, then expire.

    Returns the new id and those that were retired. Keys that have expired are removed.
    """
    with _changed(path) as found:
        keys = found[kind]
        live = {
            name: parts
            for name, parts in keys.items()
            if not read_key(name, parts, KINDS[kind][0]).expired(now)
        }
        if algorithm is None and live:
            algorithm = next(iter(live.values())).get("alg")
        name = _name(keys, now)
        arn = next((parts["arn"] for parts in live.values() if parts.get("alg") == KMS), None)
        if algorithm == KMS:
            raise ImproperlyConfigured(f"{arn} is rotated by AWS KMS itself: enable key rotation there")
        retired = [each for each, parts in live.items() if "expires" not in parts]
        for each in retired:
            live[each] = {**live[each], "use": "read", "expires": _text(now + overlap)}
        found[kind] = {name: _new_parts(kind, algorithm, None, now), **live}
        return name, retired


def listed(path: Path, now: float) -> list[Listed]:
    """All keys, in order, without their secrets."""
    rows: list[Listed] = []
    for kind, keys in read_key_file(path).items():
        writer = None
        for name, parts in keys.items():
            key = read_key(name, parts, KINDS[kind][0])
            if writer is None and key.writes and not key.expired(now):
                writer = name
            public = base64.b64encode(public_part(key)).decode("ascii") if key.algorithm == ED25519 else None
            rows.append(
                Listed(
                    kind,
                    name,
                    key.algorithm,
                    key.use,
                    parts.get("created"),
                    key.expires,
                    key.expired(now),
                    writer == name,
                    public,
                )
            )
    return rows


def public_keys(path: Path) -> dict[str, dict[str, Any]]:
    """The key file of those who only verify: the Ed25519 keys' public parts."""
    found: dict[str, Any] = {}
    for name, parts in read_key_file(path)["signing"].items():
        key = read_key(name, parts, HMAC)
        if key.algorithm == ED25519:
            more = {each: parts[each] for each in ("expires", "created") if each in parts}
            found[name] = {
                "alg": ED25519,
                "public": base64.b64encode(public_part(key)).decode("ascii"),
                **more,
            }
    if not found:
        raise ImproperlyConfigured(f"{path} holds no Ed25519 keys; HMAC secrets have no public part")
    return {"signing": found}


def _new_parts(kind: str, algorithm: str | None, arn: str | None, now: float) -> dict[str, Any]:
    usual, known = KINDS[kind]
    algorithm = algorithm or (KMS if arn else usual)
    if algorithm not in known:
        raise ImproperlyConfigured(f"{kind} keys are {' or '.join(known)}, not {algorithm!r}")
    secret = base64.b64encode(secrets.token_bytes(32)).decode("ascii")
    parts: dict[str, Any] = {"alg": algorithm, "created": _text(now)}
    if algorithm == KMS:
        if not arn:
            raise ImproperlyConfigured("a kms key needs its ARN: --arn arn:aws:kms:...")
        return {**parts, "arn": arn}
    return {**parts, {HMAC: "secret", ED25519: "private", AES: "key"}[algorithm]: secret}


def _name(keys: dict[str, Any], now: float) -> str:
    day = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d")
    number = 1
    while (name := f"{day}.{number}") in keys:
        number += 1
    return name


def _text(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


@contextmanager
def _changed(path: Path) -> Iterator[dict[str, dict[str, Any]]]:
    """The file's keys, written back whole at the end: a crash leaves the old file or the new one, and of
    two who change it at once the second sees what the first has written."""
    path = path.resolve()  # a link stays one
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path.parent) as folder:
        found = read_key_file(path) if path.exists() else {"signing": {}, "encryption": {}}
        yield found
        _replace(path, json.dumps(found, indent=1))
        if folder is not None:
            os.fsync(folder)  # the new name, too, outlives a loss of power


def _replace(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            _give_to_owner(file.fileno(), path)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _give_to_owner(handle: int, path: Path) -> None:
    """Root may rotate a service's keys: the file stays the service's, who alone may read it."""
    if os.name == "posix" and path.exists():
        owner = path.stat()
        if owner.st_uid != os.geteuid():
            os.fchown(handle, owner.st_uid, owner.st_gid)


@contextmanager
def _alone(folder: Path) -> Iterator[int | None]:
    """One at a time may change key files in a folder; the lock ends with the process, however it ends.

    The folder itself is locked: a file beside the keys would stay, and the keys' own is replaced.
    """
    if os.name != "posix":
        yield None
        return
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            raise ImproperlyConfigured(
                f"the folder {folder} cannot be locked ({error.strerror}), so a change of its keys might be "
                "lost: keep the key file on a local disk, and copy it from there"
            ) from error
        yield handle
    finally:
        os.close(handle)
