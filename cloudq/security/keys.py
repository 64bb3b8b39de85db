"""Keys: what each is for, where it comes from, until when it counts."""

from __future__ import annotations

import base64
import binascii
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cloudq.errors import ImproperlyConfigured

HMAC: Final = "hs256"
ED25519: Final = "ed25519"
AES: Final = "a256gcm"
KMS: Final = "kms"

#: Shortest HMAC secret that is accepted, bytes.
MIN_SECRET: Final = 16
_SIZES: Final = {ED25519: 32, AES: 32}
_FIELDS: Final = {"alg", "secret", "private", "public", "key", "arn", "use", "expires", "created"}
_USES: Final = ("both", "write", "read")


@dataclass(frozen=True, slots=True, repr=False)
class Key:
    """One key. ``secret`` is what must stay with us (empty for a public key); ``use`` is ``both``,
    ``write`` (sign, encrypt) or ``read`` (verify, decrypt); ``expires`` in Unix seconds."""

    id: str
    algorithm: str
    secret: bytes = b""
    public: bytes = b""
    #: KMS: the key's ARN, id or alias.
    arn: str = ""
    use: str = "both"
    expires: float | None = None

    def __repr__(self) -> str:
        return f"<Key {self.id} {self.algorithm} {self.use}>"

    @property
    def writes(self) -> bool:
        """May it sign or encrypt?"""
        return self.use != "read" and bool(self.secret or self.arn)

    @property
    def reads(self) -> bool:
        """May it verify or decrypt?"""
        return self.use != "write"

    def expired(self, now: float) -> bool:
        return self.expires is not None and now >= self.expires


def read_key(name: str, given: Any, default: str) -> Key:
    """A key of a setting: text, or a mapping of its parts.

    Text is an HMAC secret (``default`` ``hs256``) or base64 (``a256gcm``), or says what it is:
    ``ed25519:BASE64`` (private), ``ed25519-public:BASE64``, ``kms:ARN``, ``env:NAME`` and
    ``file:PATH`` (where the text lies). A mapping has ``alg`` and ``secret`` (hs256), ``private``
    or ``public`` (ed25519), ``key`` (a256gcm) or ``arn`` (kms), and may have ``use`` and
    ``expires`` (ISO-8601 text or Unix seconds). Raises ImproperlyConfigured.
    """
    if isinstance(given, str):
        return _from_text(name, _fetched(name, given), default)
    if isinstance(given, Mapping):
        return _from_parts(name, given, default)
    raise ImproperlyConfigured(
        f"the key {name!r} is text or a mapping of its parts, not {type(given).__name__}"
    )


def _fetched(name: str, text: str) -> str:
    kind, _, rest = text.partition(":")
    if kind == "env":
        found = os.environ.get(rest)
        if not found:
            raise ImproperlyConfigured(
                f"the key {name!r} is to come from the environment variable {rest}, which is not set"
            )
        return found
    if kind == "file":
        return secret_file(Path(rest)).strip()
    return text


def _from_text(name: str, text: str, default: str) -> Key:
    kind, colon, rest = text.partition(":")
    if colon and kind == ED25519:
        return _from_parts(name, {"alg": ED25519, "private": rest}, default)
    if colon and kind == f"{ED25519}-public":
        return _from_parts(name, {"alg": ED25519, "public": rest}, default)
    if colon and kind == KMS:
        return _from_parts(name, {"alg": KMS, "arn": rest}, default)
    return _from_parts(name, {"alg": default, "secret" if default == HMAC else "key": text}, default)


def _from_parts(name: str, parts: Mapping[str, Any], default: str) -> Key:
    unknown = set(parts) - _FIELDS
    if unknown:
        raise ImproperlyConfigured(
            f"the key {name!r} has no part {sorted(unknown)[0]!r}; known: {', '.join(sorted(_FIELDS))}"
        )
    algorithm, use = parts.get("alg", default), parts.get("use", "both")
    if use not in _USES:
        raise ImproperlyConfigured(f"the key {name!r}: use is one of {', '.join(_USES)}, not {use!r}")
    more: dict[str, Any] = {"use": use, "expires": _moment(name, parts.get("expires"))}
    if algorithm == HMAC:
        secret = _text(name, parts, "secret").encode()
        if len(secret) < MIN_SECRET:
            raise ImproperlyConfigured(f"the signing key {name!r} is shorter than {MIN_SECRET} bytes")
        return Key(name, HMAC, secret, **more)
    if algorithm == ED25519:
        if "private" in parts:
            return Key(name, ED25519, _binary(name, parts, "private", ED25519), **more)
        return Key(name, ED25519, public=_binary(name, parts, "public", ED25519), **{**more, "use": "read"})
    if algorithm == AES:
        return Key(name, AES, _binary(name, parts, "key", AES), **more)
    if algorithm == KMS:
        return Key(name, KMS, arn=_text(name, parts, "arn"), **more)
    raise ImproperlyConfigured(
        f"the key {name!r}: no algorithm is called {algorithm!r}; known: hs256, ed25519, a256gcm, kms"
    )


def _text(name: str, parts: Mapping[str, Any], part: str) -> str:
    found = parts.get(part)
    if not isinstance(found, str) or not found:
        raise ImproperlyConfigured(f"the key {name!r} lacks its {part}, or it is no text")
    return _fetched(name, found)


def _binary(name: str, parts: Mapping[str, Any], part: str, algorithm: str) -> bytes:
    try:
        found = base64.b64decode(_text(name, parts, part), validate=True)
    except (binascii.Error, ValueError):
        raise ImproperlyConfigured(f"the key {name!r}: its {part} is not base64") from None
    if len(found) != _SIZES[algorithm]:
        raise ImproperlyConfigured(
            f"the key {name!r}: {algorithm} keys have {_SIZES[algorithm]} bytes, this one has {len(found)}; "
            "`cloudq keys new` makes one"
        )
    return found


def _moment(name: str, given: Any) -> float | None:
    if given is None:
        return None
    if isinstance(given, int | float) and not isinstance(given, bool):
        return float(given)
    try:
        found = datetime.fromisoformat(str(given))
    except ValueError:
        raise ImproperlyConfigured(
            f"the key {name!r}: expires is ISO-8601 text or Unix seconds, not {given!r}"
        ) from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def secret_file(path: Path) -> str:
    """The text of a file that nobody else may read. Raises ImproperlyConfigured."""
    try:
        mode = path.stat().st_mode
        if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ImproperlyConfigured(f"others may read {path}: chmod 600 {path}")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ImproperlyConfigured(
            f"the key file {path} cannot be read: {error.strerror or error}"
        ) from error


def read_key_file(path: Path) -> dict[str, dict[str, Any]]:
    """``{"signing": {id: parts}, "encryption": {id: parts}}``; see ``cloudq keys``."""
    try:
        found = json.loads(secret_file(path))
    except ValueError as error:
        raise ImproperlyConfigured(f"the key file {path} is no JSON: {error}") from error
    kinds = ("signing", "encryption")
    if not isinstance(found, dict) or not all(isinstance(found.get(kind, {}), dict) for kind in kinds):
        raise ImproperlyConfigured(f"the key file {path} has the objects signing and encryption")
    return {kind: found.get(kind, {}) for kind in kinds}
