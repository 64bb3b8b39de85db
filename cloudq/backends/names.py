"""Keys as names: of objects in a bucket, and of files in a folder. Both ways, and never ambiguous."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from cloudq.errors import ImproperlyConfigured

#: The longest object name in UTF-8 bytes (S3, GCS and Azure Blob alike).
MAX_OBJECT_NAME: Final = 1_024

#: Refused or changed by one of the three stores, or by XML: controls, the escape character itself,
#: a backslash (Azure reads it as a slash), a dot that ends a segment (Azure drops it), lone
#: surrogates and non-characters.
_AWKWARD: Final = re.compile("[\x00-\x1f\x7f-\x9f%\\\\\ud800-\udfff\ufffe\uffff]|\\.(?=/|$)")
#: Letters are lower-case: there are file systems to which ``A`` and ``a`` are the same name.
_UNSAFE_IN_FILE: Final = re.compile(r"[^a-z0-9_=@~-]")
#: Longest piece of a file name; the system's limit is 255 bytes.
_PIECE: Final = 180
LEAF: Final = ".doc"
_CONTINUED: Final = "+"


def _escape(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match.group().encode("utf-8", "surrogatepass"))


def _unescape(name: str) -> str:
    return unquote_to_bytes(name).decode("utf-8", "surrogatepass")


def check_prefix(scheme: str, prefix: str) -> str:
    """The prefix of a store's URL as object names begin with it: empty, or ending in one slash."""
    folder = prefix.strip("/")
    if any(segment in ("", ".", "..") for segment in folder.split("/")) and folder:
        raise ImproperlyConfigured(f"{scheme}://: the prefix {prefix!r} has an empty segment, '.' or '..'")
    if len(folder.encode()) > 120:
        raise ImproperlyConfigured(
            f"{scheme}://: the prefix has at most 120 bytes, got {len(folder.encode())}"
        )
    return folder + "/" if folder else ""


def to_object(prefix: str, key: str) -> str:
    """The object's name. Raises ValueError when escaping makes it longer than a name may be."""
    name = prefix + _AWKWARD.sub(_escape, key)
    if len(name.encode()) > MAX_OBJECT_NAME:
        raise ValueError(
            f"the key {key[:60]!r} makes an object name of {len(name.encode())} bytes, "
            f"{MAX_OBJECT_NAME} are allowed: use a shorter one"
        )
    return name


def from_object(prefix: str, name: str) -> str:
    """The key of an object's name."""
    return _unescape(name.removeprefix(prefix))


def to_folder_path(prefix: str) -> list[str]:
    """The folders, from the root down, in which the files of a key folder lie (``a/b/``)."""
    return [piece for segment in prefix.split("/")[:-1] for piece in _pieces(segment)]


def to_file_path(key: str) -> list[str]:
    """The folders and, last, the file of a key."""
    folder, slash, last = key.rpartition("/")
    *outer, leaf = _pieces(last)
    return [*to_folder_path(folder + slash), *outer, leaf + LEAF]


def _pieces(segment: str) -> list[str]:
    """A segment as one name, or as folders ending in ``+`` and a last name when it is too long."""
    text = _UNSAFE_IN_FILE.sub(_escape, segment)
    count = max(1, -(-len(text) // _PIECE))
    parts = [text[i * _PIECE : (i + 1) * _PIECE] for i in range(count)]
    return [part + _CONTINUED for part in parts[:-1]] + parts[-1:]


def is_continued(name: str) -> bool:
    """Is this a folder that holds the rest of longer segments?"""
    return name.endswith(_CONTINUED)


def from_pieces(pieces: list[str]) -> str:
    """The segment of a key from the names that ``_pieces`` made, the last without ``.doc``."""
    return _unescape("".join(piece.removesuffix(_CONTINUED) for piece in pieces))
