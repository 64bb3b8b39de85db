"""Compression by name, and decompression that a bomb cannot abuse."""

from __future__ import annotations

import bz2
import zlib
from typing import Any, Final

from cloudq.errors import DecodeError, ImproperlyConfigured, MissingExtra

NAMES: Final = ("gzip", "bzip2", "zstd")
#: Most bytes that compressed content may unfold to.
MAX_UNFOLDED: Final = 64 * 1024 * 1024


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
    """Unfold ``data``, at most ``limit`` bytes of it (default: MAX_UNFOLDED). Raises DecodeError."""
    limit = MAX_UNFOLDED if limit is None else limit
    try:
        if name == "gzip":
            unfolder: Any = zlib.decompressobj(31)
            unfolded = unfolder.decompress(data, limit + 1)
        elif name == "bzip2":
            unfolder = bz2.BZ2Decompressor()
            unfolded = unfolder.decompress(data, limit + 1)
        elif name == "zstd":
            unfolder = _zstd().ZstdDecompressor()
            unfolded = unfolder.decompress(data, limit + 1)
        else:
            raise DecodeError(f"content compressed with {name!r}, which this release does not know")
    except MissingExtra as error:
        raise DecodeError(str(error)) from error
    except (zlib.error, OSError, EOFError, ValueError, RuntimeError) as error:
        raise DecodeError(f"not {name}: {error}") from error
    except Exception as error:
        if type(error).__name__ == "ZstdError":
            raise DecodeError(f"not {name}: {error}") from error
        raise
    if len(unfolded) > limit:
        raise DecodeError(f"content unfolds to more than {limit} bytes")
    if not unfolder.eof:
        raise DecodeError(f"{name} content is cut short")
    result: bytes = unfolded
    return result


def _zstd() -> Any:
    try:
        from compression import zstd  # Python 3.14
    except ImportError:
        try:
            from backports import zstd
        except ImportError as error:
            raise MissingExtra("zstd compression", "zstd") from error
    return zstd
