"""Compression by name, and decompression that a bomb cannot abuse."""

from __future__ import annotations

import bz2
import zlib
from typing import Any, Final

from cloudq.errors import DecodeError, ImproperlyConfigured, MissingExtra

NAMES: Final = ("gzip", "bzip2", "zstd")
#: Most bytes that compressed content may unfold to.
MAX_UNFOLDED: Final = 64 * 1024 * 1024
#: Largest zstd window, as a power of two: what a frame may make its reader allocate (64 MiB).
_WINDOW_LOG: Final = 26


def check(name: str) -> str:
    """The name, or ImproperlyConfigured / MissingExtra."""
    if name not in NAMES:
        raise ImproperlyConfigured(f"no compression is called {name!r}; there are {', '.join(NAMES)}")
    if name == "zstd":
        _zstd()
    return name


def compress(name: str, data: bytes) -> bytes:
    """Fold ``data``; the same input always gives the same bytes."""
    if check(name) == "gzip":
        folder = zlib.compressobj(6, zlib.DEFLATED, 31)
        return folder.compress(data) + folder.flush()
    if name == "bzip2":
        return bz2.compress(data)
    folded: bytes = _zstd().compress(data)
    return folded


def decompress(name: str, data: bytes, limit: int | None = None) -> bytes:
    """Unfold ``data``, at most ``limit`` bytes of it (default: MAX_UNFOLDED).

    Raises DecodeError: unknown name, broken or cut short, over the limit, more than one stream.
    """
    limit = MAX_UNFOLDED if limit is None else limit
    unfolder, broken = _unfolder(name)
    try:
        unfolded: bytes = unfolder.decompress(data, limit + 1)
    except broken as error:
        raise DecodeError(f"not {name}: {error}") from error
    if len(unfolded) > limit:
        raise DecodeError(f"{name} content unfolds to more than {limit} bytes")
    if not unfolder.eof:
        raise DecodeError(f"{name} content is cut short")
    if unfolder.unused_data:  # reading only the first of several streams would lose data silently
        raise DecodeError(
            f"{name} content is followed by {len(unfolder.unused_data)} more bytes: write one stream"
        )
    return unfolded


def _unfolder(name: str) -> tuple[Any, tuple[type[Exception], ...]]:
    """A fresh decompressor, and what it raises on broken data."""
    if name == "gzip":
        return zlib.decompressobj(31), (zlib.error,)
    if name == "bzip2":
        return bz2.BZ2Decompressor(), (OSError, EOFError, ValueError)
    if name == "zstd":
        try:
            zstd = _zstd()
        except MissingExtra as error:
            raise DecodeError(str(error)) from error
        options = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG}
        return zstd.ZstdDecompressor(options=options), (zstd.ZstdError, EOFError, ValueError)
    raise DecodeError(f"content compressed with {name[:80]!r}, which this release does not know")


def _zstd() -> Any:
    try:
        from compression import zstd  # Python 3.14
    except ImportError:
        try:
            from backports import zstd
        except ImportError as error:
            raise MissingExtra("zstd compression", "zstd") from error
    return zstd
