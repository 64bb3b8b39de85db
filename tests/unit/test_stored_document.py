"""The header of a stored document, and keys as names of objects and files."""

from __future__ import annotations

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudq.backends import names
from cloudq.backends.base import check_key
from cloudq.backends.document import HEADER_BYTES, Document, dump, load, load_header, new_nonce
from cloudq.errors import CorruptRecord, ImproperlyConfigured

NONCE = bytes(range(16))


@given(st.binary(max_size=200), st.none() | st.floats(allow_nan=False))
def test_a_document_comes_back_as_it_went_in(value: bytes, expires_at: float | None) -> None:
    document = Document(NONCE, value, expires_at)
    assert load(dump(document), "here") == document


def test_the_header_is_laid_out_as_documented() -> None:
    data = dump(Document(NONCE, b"abc", 12.5))
    assert HEADER_BYTES == 40
    assert data == b"CQD\x01" + NONCE + struct.pack(">dQI", 12.5, 3, 0x352441C2) + b"abc"
    assert math.isnan(struct.unpack_from(">d", dump(Document(NONCE, b"")), 20)[0])


def test_the_same_value_twice_makes_two_different_documents() -> None:
    assert dump(Document(new_nonce(), b"same")) != dump(Document(new_nonce(), b"same"))


def test_a_document_is_alive_until_the_very_moment_of_its_expiry() -> None:
    header = load_header(dump(Document(NONCE, b"", 100.0)), "here")
    assert header.alive(99.999)
    assert not header.alive(100.0)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a document of cloudq's"),
        (b'{"task_id": "x"}', "does something else write there"),
        (b"CQD\x02" + bytes(60), "document format 2, this release reads format 1: upgrade"),
        (dump(Document(NONCE, b"abc"))[:30], "breaks off after 30 bytes"),
        (dump(Document(NONCE, b"abc"))[:-1], "2 bytes of a value of 3"),
        (dump(Document(NONCE, b"abc"))[:-1] + b"x", "checksum"),
    ],
)
def test_what_cannot_be_read_is_named_with_place_and_reason(data: bytes, says: str) -> None:
    with pytest.raises(CorruptRecord, match=says) as error:
        load(data, "s3://bucket/task/1")
    assert "s3://bucket/task/1" in str(error.value)


def valid(key: str) -> bool:
    try:
        check_key(key)
    except ValueError:
        return False
    return True


KEYS = st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=4).map("/".join).filter(valid)


@given(KEYS)
def test_every_key_comes_back_from_its_object_name(key: str) -> None:
    name = names.to_object("pre/fix/", key)
    assert names.from_object("pre/fix/", name) == key
    assert not any(ord(each) < 32 or each == "\\" for each in name)
    assert name.encode("utf-8")


@given(KEYS, KEYS)
def test_different_keys_have_different_files(one: str, other: str) -> None:
    assert (names.to_file_path(one) == names.to_file_path(other)) == (one == other)


@pytest.mark.parametrize("key", ["k" * 900, "é" * 450, "a/" + "\x01" * 880 + "/b", "K" * 900])
def test_the_longest_key_fits_the_file_system(key: str) -> None:
    *folders, last = names.to_file_path(key)
    assert all(len(each) <= 255 for each in (*folders, last))
    assert len("/".join([*folders, last])) < 3_000


def test_a_key_and_the_folder_of_its_name_do_not_collide() -> None:
    assert names.to_file_path("a") == ["a.doc"]
    assert names.to_file_path("a/b") == ["a", "b.doc"]
    assert names.to_file_path("a.doc/b") == ["a%2Edoc", "b.doc"]


def test_letters_of_both_cases_differ_on_a_file_system_that_knows_one() -> None:
    assert names.to_file_path("A") == ["%41.doc"]


def test_an_escaped_name_over_the_limit_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="2700 bytes, 1024 are allowed"):
        names.to_object("", "%" * 900)


@pytest.mark.parametrize(("given", "prefix"), [("", ""), ("a", "a/"), ("a/b/", "a/b/")])
def test_a_prefix_ends_in_one_slash(given: str, prefix: str) -> None:
    assert names.check_prefix("s3", given) == prefix


@pytest.mark.parametrize("prefix", ["a//b", "../x", "p" * 121])
def test_a_prefix_that_makes_unsafe_names_is_refused(prefix: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="prefix"):
        names.check_prefix("s3", prefix)
