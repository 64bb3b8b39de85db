"""Signatures: who signed, for which queue, exactly which text; and what only signed content may do."""

import base64
import hashlib
import hmac
import json
import os
import pickle
from typing import Any

import pytest

from cloudq.errors import ContentDisallowed, ImproperlyConfigured, SignatureInvalid
from cloudq.message import Envelope
from cloudq.security.signing import KeyRing
from cloudq.serializers.codec import Codec

KEYS = {"k1": "a secret of at least sixteen bytes"}


def signed(queue: str = "q", keys: dict[str, str] = KEYS) -> str:
    return Codec(keys=keys).encode(Envelope(task="t", id="T1", args=(1,)), queue)


def test_a_signed_message_is_read_by_who_has_the_key() -> None:
    rotated = {"k2": "another secret, quite long enough", **KEYS}

    assert Codec(keys=rotated, security_required=True).decode(signed(), "q", "M").args == (1,)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("[1]", "[2]"),
        lambda text: text.replace('"mac":"', '"mac":"AAAA'),
        lambda text: text.replace("k1", "k9"),
        lambda text: text.replace("hs256", "none"),
        lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "signature"}),
        lambda text: json.loads(text)["signed"],
        lambda text: '{"task": "t"}',
    ],
)
def test_a_message_that_was_changed_is_refused(change: Any) -> None:
    text = change(signed())
    with pytest.raises(SignatureInvalid):
        Codec(keys=KEYS, security_required=True).decode(text, "q", "M")


def test_a_message_for_another_queue_is_refused() -> None:
    with pytest.raises(SignatureInvalid, match="queue 'other'"):
        Codec(keys=KEYS).decode(signed("q"), "other", "M")


def test_pickle_needs_its_name_and_a_signature() -> None:
    with pytest.raises(ImproperlyConfigured, match="security_keys"):
        Codec(accept_content=("json", "pickle"))
    both = Codec(accept_content=("json", "pickle"), keys=KEYS)
    text = both.encode(Envelope(task="t", id="T1", args=({1, 2},)), "q", serializer="pickle")
    assert both.decode(text, "q", "M").args == ({1, 2},)
    with pytest.raises(ContentDisallowed, match="accept_content"):
        Codec(keys=KEYS).decode(text, "q", "M")
    inner = json.loads(text)["signed"]
    with pytest.raises(ContentDisallowed, match="signed"):
        both.decode(inner, "q", "M")


def test_short_keys_are_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="shorter than 16"):
        Codec(keys={"k": "short"})


@pytest.mark.parametrize("mark", ["\0signed", "signed\0", "_signed"])
def test_no_field_of_an_unsigned_message_makes_it_a_signed_one(mark: str) -> None:
    codec = Codec(accept_content=("json", "pickle"), keys=KEYS)
    data = base64.b64encode(pickle.dumps([[Harmful()], {}])).decode()
    content = {"type": "application/x-python-serialize", "encoding": "base64", "data": data}
    with pytest.raises(ContentDisallowed, match="only read from signed"):
        codec.decode(json.dumps({"task": "t", mark: True, "content": content}), "q", "M")


class Harmful:
    """Gives itself away when it is unpickled."""

    def __reduce__(self) -> Any:
        return os._exit, (99,)


def test_a_pickled_result_is_only_read_with_its_signature() -> None:
    codec = Codec(accept_content=("json", "pickle"), keys=KEYS, result_serializer="pickle")
    packed = json.loads(json.dumps(codec.pack({1, 2})))
    assert codec.unpack(packed) == {1, 2}

    unsigned = {"__content__": {k: v for k, v in packed["__content__"].items() if k != "signature"}}
    with pytest.raises(ContentDisallowed, match="signed"):
        codec.unpack(unsigned)
    data = base64.b64encode(pickle.dumps(Harmful())).decode()
    with pytest.raises(SignatureInvalid):
        codec.unpack({"__content__": {**packed["__content__"], "data": data}})
    with pytest.raises(SignatureInvalid):
        Codec(accept_content=("json", "pickle"), keys={"k1": "not the same secret at all"}).unpack(packed)


def test_a_message_cannot_be_passed_off_as_a_result() -> None:
    codec = Codec(accept_content=("json", "pickle"), keys=KEYS)
    ring = KeyRing(KEYS)
    data = base64.b64encode(pickle.dumps(1)).decode()
    signature = ring.sign(data, "results", "2026-11-21T12:00:00Z").plain()
    content = {"type": "application/x-python-serialize", "encoding": "base64", "data": data}
    with pytest.raises(SignatureInvalid):
        codec.unpack({"__content__": {**content, "signature": signature}})


def test_the_documented_recipe_gives_the_same_signature() -> None:
    """What docs/reference/protocol.md tells people of other languages."""
    queue, time, text = "orders", "2026-11-21T12:00:00Z", '{"task":"t","id":"T1","args":["ü"]}'
    parts = [part.encode() for part in (queue, time, text)]
    data = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    mac = base64.b64encode(hmac.new(KEYS["k1"].encode(), data, hashlib.sha256).digest()).decode()
    signature = {"alg": "hs256", "key": "k1", "time": time, "mac": mac}

    body = json.dumps({"v": 1, "signed": text, "signature": signature})

    assert Codec(keys=KEYS, security_required=True).decode(body, queue, "M").args == ("ü",)
    with pytest.raises(SignatureInvalid):
        KeyRing(KEYS).verify(text, queue, {**signature, "time": "2027-01-01T00:00:00Z"})


@pytest.mark.parametrize("field", ["alg", "key", "time", "mac"])
@pytest.mark.parametrize("value", [None, 5, [], "", "ü", "A" * 43])
def test_a_broken_signature_is_invalid_and_nothing_else(field: str, value: Any) -> None:
    signature = KeyRing(KEYS).sign("text", "q", "2026").plain() | {field: value}
    with pytest.raises(SignatureInvalid):
        KeyRing(KEYS).verify("text", "q", signature)


def test_the_first_key_signs_and_all_verify() -> None:
    new = {"k2": "another secret, quite long enough", **KEYS}

    assert KeyRing(new).sign("x", "q", "now").key == "k2"
    KeyRing(new).verify("x", "q", KeyRing(KEYS).sign("x", "q", "now").plain())
    with pytest.raises(SignatureInvalid, match="'k2', which this app does not have"):
        KeyRing(KEYS).verify("x", "q", KeyRing(new).sign("x", "q", "now").plain())
