"""A results store whose values are encrypted, signed, or both: who can read the store learns only keys and sizes.

A wrapper with the same contract. What it writes is bound to its key: a value copied to another key,
changed, or written by somebody without the secret is a CorruptRecord. Keys, versions and expiry stay
in clear: the store needs them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Final

import msgspec

from cloudq.backends.base import ALWAYS, BackendCapabilities, Condition, Entry, ResultBackend, Version
from cloudq.clock import SYSTEM_CLOCK, Clock
from cloudq.errors import Conflict, CorruptRecord, MessageError
from cloudq.security.encryption import Sealer
from cloudq.security.signing import KeyRing

#: A sealed value: this, JSON that says how, a line break, the bytes.
_ENCRYPTED: Final = b"\x00cloudq-encrypted\x01"
_SIGNED: Final = b"\x00cloudq-signed\x01"
#: Room for what stands in front of the bytes: a wrapped KMS key is some 200 bytes, in base64.
OVERHEAD: Final = 1_024

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, str]).decode


class SealedBackend:
    """``inner`` with its values encrypted by ``sealer`` and signed by ``ring``, where given.

    With ``required`` a value that is not sealed is refused; else it is read, as while keys are being
    introduced.
    """

    def __init__(
        self,
        inner: ResultBackend,
        *,
        sealer: Sealer | None = None,
        ring: KeyRing | None = None,
        required: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._inner = inner
        self._sealer = sealer
        self._ring = ring
        self._required = required
        self._clock = clock

    def __getattr__(self, name: str) -> Any:
        # Setting up and looking at a store (create_table, describe ...) has nothing to do with values.
        return getattr(self._inner, name)

    @property
    def capabilities(self) -> BackendCapabilities:
        inner = self._inner.capabilities
        return inner if inner.max_value is None else replace(inner, max_value=inner.max_value - OVERHEAD)

    @property
    def url(self) -> str:
        return self._inner.url

    def read(self, key: str) -> Entry | None:
        """See ``ResultBackend.read``; also raises CorruptRecord."""
        found = self._inner.read(key)
        return None if found is None else self._opened(key, found)

    def read_many(self, keys: Iterable[str]) -> dict[str, Entry]:
        """See ``ResultBackend.read_many``; also raises CorruptRecord."""
        return {key: self._opened(key, entry) for key, entry in self._inner.read_many(keys).items()}

    def write(
        self, key: str, value: bytes, when: Condition = ALWAYS, expires_at: float | None = None
    ) -> Version:
        """See ``ResultBackend.write``."""
        try:
            return self._inner.write(key, self._sealed(key, value), when, expires_at)
        except Conflict as conflict:
            raise self._conflict(key, conflict) from conflict

    def delete(self, key: str, when: Condition = ALWAYS) -> None:
        """See ``ResultBackend.delete``."""
        try:
            self._inner.delete(key, when)
        except Conflict as conflict:
            raise self._conflict(key, conflict) from conflict

    def keys(self, prefix: str) -> Iterator[str]:
        """See ``ResultBackend.keys``."""
        return self._inner.keys(prefix)

    def close(self) -> None:
        """See ``ResultBackend.close``."""
        self._inner.close()

    # --- parts --------------------------------------------------------------------------------

    def _conflict(self, key: str, conflict: Conflict) -> Conflict:
        present = conflict.present
        return Conflict(conflict.key, None if present is None else self._opened(key, present))

    def _sealed(self, key: str, value: bytes) -> bytes:
        if self._sealer is not None:
            how, data = self._sealer.seal(value, _about(key))
            value = _ENCRYPTED + _encode(how) + b"\n" + data
        if self._ring is not None:
            moment = f"{self._clock.time():.3f}"
            signature = self._ring.sign(value, _place(key), moment)
            value = _SIGNED + _encode(signature.plain()) + b"\n" + value
        return value

    def _opened(self, key: str, entry: Entry) -> Entry:
        value = entry.value
        try:
            if value.startswith(_SIGNED):
                how, value = _parts(value, _SIGNED)
                if self._ring is not None:
                    self._ring.verify(value, _place(key), how)
            elif self._ring is not None and self._required:
                raise CorruptRecord(
                    f"{key} in {self.url} is not signed, and this app reads only signed values"
                )
            if value.startswith(_ENCRYPTED):
                how, data = _parts(value, _ENCRYPTED)
                if self._sealer is None:
                    raise CorruptRecord(f"{key} in {self.url} is encrypted: set security_encryption_keys")
                value = self._sealer.open(how, data, _about(key))
            elif self._sealer is not None and self._required:
                raise CorruptRecord(
                    f"{key} in {self.url} is not encrypted, and this app reads only encrypted values"
                )
        except (MessageError, msgspec.MsgspecError) as error:
            raise CorruptRecord(f"{key} in {self.url}: {error}") from error
        return replace(entry, value=value)


def _parts(value: bytes, mark: bytes) -> tuple[dict[str, str], bytes]:
    head, found, rest = value[len(mark) :].partition(b"\n")
    if not found:
        raise msgspec.DecodeError("the value is cut off")
    return _decode(head), rest


def _about(key: str) -> bytes:
    return b"store\x00" + key.encode("utf-8", "surrogatepass")


def _place(key: str) -> str:
    return f"\0store/{key}"
