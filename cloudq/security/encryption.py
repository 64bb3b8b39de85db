"""Encryption by AES-256-GCM: what is sealed is readable, and can only have been written, by who has the key.

The cipher's nonce is random, 96 bits: NIST SP 800-38D bounds a key to 2**32 messages, which KMS's data
keys never come near and static keys are to be rotated long before.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from typing import Any, Final, Protocol

from cloudq.clock import SYSTEM_CLOCK, Clock
from cloudq.errors import DecryptionFailed, ImproperlyConfigured, MissingExtra
from cloudq.security.keys import AES, KMS, Key, read_key

_NONCE: Final = 12


class DataKeys(Protocol):
    """Who makes and opens data keys (``cloudq.security.kms``)."""

    def fresh(self, arn: str) -> tuple[bytes, bytes]: ...

    def opened(self, arn: str, wrapped: bytes) -> bytes: ...


class Sealer:
    """Keys by id: the first that may encrypts, all that may decrypt.

    ``data_keys`` is asked for keys of AWS KMS; without it those are refused.
    """

    def __init__(
        self, keys: Mapping[str, Any], data_keys: DataKeys | None = None, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._clock = clock
        self._data_keys = data_keys
        self._keys = {name: read_key(name, given, AES) for name, given in keys.items()}
        for key in self._keys.values():
            if key.algorithm not in (AES, KMS):
                raise ImproperlyConfigured(
                    f"security_encryption_keys: the key {key.id!r} is for {key.algorithm}, which does not encrypt"
                )
        if self._keys:
            _library()

    def __bool__(self) -> bool:
        return bool(self._keys)

    def seal(self, data: bytes, about: bytes) -> tuple[dict[str, str], bytes]:
        """How it was sealed, and the sealed bytes. ``about`` is what it belongs to: opened with
        anything else it is refused."""
        key = self._writer()
        secret, how = key.secret, {"alg": AES, "key": key.id}
        if key.algorithm == KMS:
            secret, wrapped = self._keeper(key).fresh(key.arn)
            how["wrapped"] = base64.b64encode(wrapped).decode("ascii")
        nonce = os.urandom(_NONCE)
        sealed: bytes = _library().AESGCM(secret).encrypt(nonce, data, _bound(about, how))
        return how, nonce + sealed

    def open(self, how: Any, sealed: bytes, about: bytes) -> bytes:
        """The data again. Raises DecryptionFailed, saying why."""
        if not isinstance(how, Mapping) or not all(isinstance(each, str) for each in how.values()):
            raise DecryptionFailed("it does not say how it was encrypted")
        if how.get("alg") != AES:
            raise DecryptionFailed(
                f"encrypted with {str(how.get('alg'))[:40]!r}, which this release does not know"
            )
        key = self._keys.get(how.get("key", ""))
        if key is None or not key.reads:
            raise DecryptionFailed(
                f"encrypted with the key {str(how.get('key'))[:80]!r}, which this app does not have"
            )
        if key.expired(self._clock.time()):
            raise DecryptionFailed(f"encrypted with the key {key.id!r}, which has expired")
        from cryptography.exceptions import InvalidTag

        try:
            found: bytes = (
                _library()
                .AESGCM(self._secret(key, how))
                .decrypt(sealed[:_NONCE], sealed[_NONCE:], _bound(about, how))
            )
        except (InvalidTag, ValueError):
            raise DecryptionFailed(
                f"it was not encrypted with the key {key.id!r} for this place, or was changed since"
            ) from None
        return found

    def _writer(self) -> Key:
        now = self._clock.time()
        for key in self._keys.values():
            if key.writes and not key.expired(now):
                return key
        raise ImproperlyConfigured(
            "none of the security_encryption_keys may encrypt: they only decrypt, or have expired"
        )

    def _secret(self, key: Key, how: Mapping[str, str]) -> bytes:
        if key.algorithm != KMS:
            return key.secret
        try:
            wrapped = base64.b64decode(how.get("wrapped", ""), validate=True)
        except (binascii.Error, ValueError):
            raise DecryptionFailed("its wrapped data key is not base64") from None
        return self._keeper(key).opened(key.arn, wrapped)

    def _keeper(self, key: Key) -> DataKeys:
        if self._data_keys is None:
            raise ImproperlyConfigured(f"the key {key.id!r} lies in AWS KMS, and nothing here asks KMS")
        return self._data_keys


def _bound(about: bytes, how: Mapping[str, str]) -> bytes:
    parts = [about, how.get("alg", "").encode(), how.get("key", "").encode(), how.get("wrapped", "").encode()]
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def _library() -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers import aead
    except ImportError as error:
        raise MissingExtra("encryption", "security") from error
    return aead
