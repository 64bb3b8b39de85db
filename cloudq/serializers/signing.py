"""Signatures: HMAC-SHA-256 over the exact text, the queue's name and the time of signing."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cloudq.errors import ImproperlyConfigured, SignatureInvalid

ALGORITHM: Final = "hs256"
#: Shortest secret that is accepted, bytes.
MIN_SECRET: Final = 16


@dataclass(frozen=True, slots=True)
class Signature:
    """What travels beside the text. ``time`` is ISO-8601 text and part of what is signed."""

    key: str
    time: str
    mac: str

    def plain(self) -> dict[str, str]:
        return {"alg": ALGORITHM, "key": self.key, "time": self.time, "mac": self.mac}


class KeyRing:
    """Keys by id: the first signs, all verify. So a new key is added behind, then moved to the front."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        for key, secret in keys.items():
            if len(secret.encode()) < MIN_SECRET:
                raise ImproperlyConfigured(f"the signing key {key!r} is shorter than {MIN_SECRET} bytes")
        self._keys = {key: secret.encode() for key, secret in keys.items()}
        self._first = next(iter(keys), None)

    def __bool__(self) -> bool:
        return bool(self._keys)

    def sign(self, text: str, queue: str, time: str) -> Signature:
        """Sign with the first key."""
        if self._first is None:
            raise ImproperlyConfigured("there is no key to sign with: set security_keys")
        mac = self._mac(self._first, text, queue, time)
        return Signature(self._first, time, base64.b64encode(mac).decode("ascii"))

    def verify(self, text: str, queue: str, signature: Any) -> None:
        """Raise SignatureInvalid, saying why, unless the signature is one of ours."""
        if not isinstance(signature, Mapping):
            raise SignatureInvalid("the message has no signature")
        if signature.get("alg") != ALGORITHM:
            raise SignatureInvalid(f"signed with {signature.get('alg')!r}, which this release does not know")
        key, time, mac = signature.get("key"), signature.get("time"), signature.get("mac")
        if not (isinstance(key, str) and isinstance(time, str) and isinstance(mac, str)):
            raise SignatureInvalid("the signature is incomplete")
        if key not in self._keys:
            raise SignatureInvalid(f"signed with the key {key!r}, which this app does not have")
        try:
            given = base64.b64decode(mac, validate=True)
        except (binascii.Error, ValueError):
            raise SignatureInvalid("the signature is not base64") from None
        if not hmac.compare_digest(given, self._mac(key, text, queue, time)):
            raise SignatureInvalid(f"the signature does not fit the message, queue {queue!r} and key {key!r}")

    def _mac(self, key: str, text: str, queue: str, time: str) -> bytes:
        # lengths first, so that no two different triples give the same bytes
        parts = [part.encode("utf-8", "surrogatepass") for part in (queue, time, text)]
        data = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
        return hmac.digest(self._keys[key], data, "sha256")
