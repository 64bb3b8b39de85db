"""Signatures over the exact text, the queue's name and the time of signing: HMAC-SHA-256 or Ed25519."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cloudq.clock import SYSTEM_CLOCK, Clock
from cloudq.errors import ImproperlyConfigured, MissingExtra, SignatureInvalid
from cloudq.security.keys import ED25519, HMAC, Key, read_key


@dataclass(frozen=True, slots=True)
class Signature:
    """What travels beside the text. ``time`` is ISO-8601 text and part of what is signed."""

    key: str
    time: str
    mac: str
    algorithm: str = HMAC

    def plain(self) -> dict[str, str]:
        return {"alg": self.algorithm, "key": self.key, "time": self.time, "mac": self.mac}


class KeyRing:
    """Keys by id: the first that may signs, all that may verify. So a new key is added behind where
    messages are read, and moved to the front where they are written."""

    def __init__(self, keys: Mapping[str, Any], clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._keys = {name: read_key(name, given, HMAC) for name, given in keys.items()}
        for key in self._keys.values():
            if key.algorithm not in (HMAC, ED25519):
                raise ImproperlyConfigured(
                    f"security_keys: the key {key.id!r} is for {key.algorithm}, which does not sign"
                )
            if key.algorithm == ED25519:
                _library()

    def __bool__(self) -> bool:
        return bool(self._keys)

    @property
    def signs(self) -> bool:
        """Is there a key to sign with?"""
        return any(key.writes for key in self._keys.values())

    def sign(self, text: str | bytes, queue: str, time: str) -> Signature:
        """Sign with the first key that may. Raises ImproperlyConfigured."""
        now = self._clock.time()
        for key in self._keys.values():
            if key.writes and not key.expired(now):
                made = base64.b64encode(_make(key, signed_bytes(text, queue, time))).decode("ascii")
                return Signature(key.id, time, made, key.algorithm)
        if self._keys:
            raise ImproperlyConfigured(
                "none of the security_keys may sign: they only verify, or have expired; `cloudq keys rotate` makes a new one"
            )
        raise ImproperlyConfigured("there is no key to sign with: set security_keys")

    def verify(self, text: str | bytes, queue: str, signature: Any) -> None:
        """Raise SignatureInvalid, saying why, unless the signature is one of ours."""
        if not isinstance(signature, Mapping):
            raise SignatureInvalid("the message has no signature")
        algorithm, name = signature.get("alg"), signature.get("key")
        time, mac = signature.get("time"), signature.get("mac")
        if algorithm not in (HMAC, ED25519):
            raise SignatureInvalid(f"signed with {str(algorithm)[:40]!r}, which this release does not know")
        if not (isinstance(name, str) and isinstance(time, str) and isinstance(mac, str)):
            raise SignatureInvalid("the signature is incomplete")
        key = self._keys.get(name)
        if key is None or not key.reads:
            raise SignatureInvalid(f"signed with the key {name[:80]!r}, which this app does not have")
        if key.algorithm != algorithm:
            # Else a public key, known to many, could be taken for an HMAC secret.
            raise SignatureInvalid(f"signed with {algorithm}, but the key {name!r} is for {key.algorithm}")
        if key.expired(self._clock.time()):
            raise SignatureInvalid(f"signed with the key {name!r}, which has expired")
        try:
            given = base64.b64decode(mac, validate=True)
        except (binascii.Error, ValueError):
            raise SignatureInvalid("the signature is not base64") from None
        if not _fits(key, given, signed_bytes(text, queue, time)):
            raise SignatureInvalid(
                f"the signature does not fit the message, queue {queue!r} and key {name!r}"
            )


def signed_bytes(text: str | bytes, queue: str, time: str) -> bytes:
    """What is signed; lengths first, so that no two different triples give the same bytes."""
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    parts = [queue.encode("utf-8", "surrogatepass"), time.encode("utf-8", "surrogatepass"), data]
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def _make(key: Key, data: bytes) -> bytes:
    if key.algorithm == HMAC:
        return hmac.digest(key.secret, data, "sha256")
    made: bytes = _private(key.secret).sign(data)
    return made


def _fits(key: Key, given: bytes, data: bytes) -> bool:
    if key.algorithm == HMAC:
        return hmac.compare_digest(given, hmac.digest(key.secret, data, "sha256"))
    from cryptography.exceptions import InvalidSignature

    try:
        (_public(key.public) if key.public else _private(key.secret).public_key()).verify(given, data)
    except InvalidSignature:
        return False
    return True


def public_part(key: Key) -> bytes:
    """The 32 bytes that those who only verify need. Raises MissingExtra."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    found: bytes = key.public or _private(key.secret).public_key().public_bytes(
        Encoding.Raw, PublicFormat.Raw
    )
    return found


@lru_cache(64)
def _private(secret: bytes) -> Any:
    return _library().Ed25519PrivateKey.from_private_bytes(secret)


@lru_cache(64)
def _public(public: bytes) -> Any:
    return _library().Ed25519PublicKey.from_public_bytes(public)


def _library() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise MissingExtra("signing with Ed25519", "security") from error
    return ed25519
