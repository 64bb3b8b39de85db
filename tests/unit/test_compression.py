"""Compression: it shrinks, it comes back, and what unfolds without end is refused early."""

import base64
import bz2
import gzip
import json
import os
import tracemalloc
from typing import Any

import pytest
from backports import zstd

from cloudq.errors import DecodeError, ImproperlyConfigured, MissingExtra
from cloudq.message import Envelope
from cloudq.serializers import compression
from cloudq.serializers.codec import Codec

OURS: dict[str, Any] = {"gzip": gzip.compress, "bzip2": bz2.compress, "zstd": zstd.compress}


@pytest.mark.parametrize("name", ["gzip", "bzip2", "zstd"])
def test_compression_shrinks_and_comes_back(name: str) -> None:
    codec = Codec(compression=name, compression_threshold=100)
    envelope = Envelope(task="t", id="T1", args=("x" * 100_000,))
    text = codec.encode(envelope, "q")

    assert len(text) < 5_000
    assert codec.decode(text, "q", "M") == envelope
    assert '"args"' in codec.encode(Envelope(task="t", id="T", args=("small",)), "q")


@pytest.mark.parametrize("name", ["gzip", "bzip2", "zstd"])
def test_a_bomb_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloudq.serializers.compression.MAX_UNFOLDED", 1_000_000)
    codec = Codec(
        compression=name, compression_threshold=0, serializer="msgpack", accept_content=("json", "msgpack")
    )
    text = codec.encode(Envelope(task="t", id="T1", args=(b"\0" * (2_000_000),)), "q")
    with pytest.raises(DecodeError, match="unfolds to more than"):
        codec.decode(text, "q", "M")


def test_cut_short_content_is_refused() -> None:
    codec = Codec(compression="gzip", compression_threshold=0)
    document = json.loads(codec.encode(Envelope(task="t", id="T1", args=("x" * 100,)), "q"))
    raw = base64.b64decode(document["content"]["data"])
    document["content"]["data"] = base64.b64encode(raw[:-9]).decode()
    with pytest.raises(DecodeError):
        codec.decode(json.dumps(document), "q", "M")


def test_unknown_names_are_refused_when_the_app_starts() -> None:
    with pytest.raises(ImproperlyConfigured, match="rot13"):
        Codec(compression="rot13")
    with pytest.raises(ImproperlyConfigured, match="did you mean 'json'"):
        Codec(serializer="jsn")


def test_an_unknown_name_is_refused_however_small_the_message() -> None:
    with pytest.raises(ImproperlyConfigured, match="'rot13'"):
        Codec().encode(Envelope(task="t"), "q", compression="rot13")


def test_what_does_not_shrink_stays_readable() -> None:
    codec = Codec(compression="gzip", compression_threshold=10)
    noise = base64.b64encode(os.urandom(600)).decode()

    assert json.loads(codec.encode(Envelope(task="t", args=(noise,)), "q"))["args"] == [noise]


@pytest.mark.parametrize("name", compression.NAMES)
def test_what_other_programs_compress_is_read(name: str) -> None:
    data = b"some text " * 1000

    assert compression.decompress(name, OURS[name](data)) == data
    assert compression.decompress(name, compression.compress(name, data)) == data
    assert compression.compress(name, data) == compression.compress(name, data)


@pytest.mark.parametrize("name", compression.NAMES)
def test_a_second_stream_is_refused_not_dropped(name: str) -> None:
    with pytest.raises(DecodeError, match="write one stream"):
        compression.decompress(name, OURS[name](b"[1,") + OURS[name](b"2]"))


@pytest.mark.parametrize("name", compression.NAMES)
@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"garbage" * 9, b"\x1f\x8b\x08", b"BZh9", b"\x28\xb5\x2f\xfd"]
)
def test_broken_data_is_a_decode_error(name: str, data: bytes) -> None:
    with pytest.raises(DecodeError):
        compression.decompress(name, data)


@pytest.mark.parametrize("name", compression.NAMES)
def test_a_bomb_takes_no_more_memory_than_the_limit(name: str) -> None:
    bomb = OURS[name](b"\0" * 50_000_000)
    tracemalloc.start()
    with pytest.raises(DecodeError, match="unfolds to more than 1000000 bytes"):
        compression.decompress(name, bomb, 1_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 12_000_000  # bzip2 itself takes 4 MB, a zstd window up to 8 MB


def test_a_zstd_frame_cannot_ask_for_a_huge_window() -> None:
    options = {zstd.CompressionParameter.window_log: 27, zstd.CompressionParameter.content_size_flag: 0}
    folder = zstd.ZstdCompressor(options=options)
    frame = folder.compress(b"x" * 1000) + folder.flush()
    with pytest.raises(DecodeError, match="not zstd"):
        compression.decompress("zstd", frame)


def test_content_in_zstd_without_the_extra_is_buried_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise MissingExtra("zstd compression", "zstd")

    monkeypatch.setattr(compression, "_zstd", missing)
    with pytest.raises(DecodeError, match=r"cloudq-tasks\[zstd\]"):
        compression.decompress("zstd", b"x")
    with pytest.raises(MissingExtra):
        Codec(compression="zstd")
