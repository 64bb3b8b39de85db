"""The wire format: golden files, the schema, and that no text whatever raises anything unforeseen."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudq.errors import (
    ContentDisallowed,
    DecodeError,
    ImproperlyConfigured,
    MessageError,
    SerializationError,
    SignatureInvalid,
    UnsupportedVersion,
)
from cloudq.message import Envelope, GroupRef
from cloudq.serializers.codec import Codec
from cloudq.testing.clock import ManualClock

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "wire"
SCHEMA = json.loads((ROOT / "docs" / "reference" / "wire-v1.schema.json").read_text())
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC).timestamp()
KEYS = {"k1": "a secret of at least sixteen bytes"}

FULL = Envelope(
    task="shop.tasks.add",
    id="9afb2773-7027-4344-a72f-3c5705e0005d",
    args=(1, "ü\ufffe", None),
    kwargs={"when": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "price": Decimal("1.10"), "raw": b"\x00\xff"},
    eta=NOW + 60.5,
    expires=NOW + 3600,
    retries=2,
    root_id="root",
    parent_id="parent",
    group=GroupRef("g1", 3, 10),
    chord={"task": "shop.tasks.total", "args": [], "options": {"task_id": "body"}},
    chain=({"task": "shop.tasks.next", "args": [1]},),
    link=({"task": "shop.tasks.note", "immutable": True},),
    link_error=({"task": "shop.tasks.alarm"},),
    time_limit=30.0,
    soft_time_limit=25.0,
    headers={"tenant": "acme", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
    origin="1@host",
    sent_at=NOW,
)
CASES: dict[str, tuple[Envelope, dict[str, Any], dict[str, Any]]] = {
    "minimal": (Envelope(task="shop.tasks.add", id="T1", args=(1, 2)), {}, {}),
    "full": (FULL, {}, {}),
    "msgpack": (
        Envelope(task="t", id="T1", args=(1, b"\x00"), kwargs={"x": 1.5}),
        {"accept_content": ("json", "msgpack"), "serializer": "msgpack"},
        {},
    ),
    "gzip": (
        Envelope(task="t", id="T1", args=("x" * 300,)),
        {"compression": "gzip", "compression_threshold": 100},
        {},
    ),
    "signed": (Envelope(task="t", id="T1", args=(1,)), {"keys": KEYS, "clock": ManualClock(NOW)}, {}),
    "unknown-fields": (Envelope(task="t", id="T1", extra={"later": {"x": 1}}), {}, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_golden_files(name: str) -> None:
    envelope, options, more = CASES[name]
    codec = Codec(**options)
    path = GOLDEN / f"{name}.json"
    text = codec.encode(envelope, "orders", **more)

    assert path.read_text("utf-8") == text, f"the wire format changed: {path.name}"
    assert codec.decode(text, "orders", "M1") == envelope
    jsonschema.validate(json.loads(text), SCHEMA)


@pytest.mark.parametrize(
    "text",
    [
        '{"task": "shop.tasks.add", "args": [1, 2]}',
        '{"task": "t", "eta": 1800000000, "expires": "2027-01-01", "link": {"task": "x"}, "kwargs": null}',
        '{"task": "t", "args": [{"__type__": "datetime", "__value__": "2026-11-21T04:21:54+00:00"}]}',
    ],
)
def test_messages_written_by_hand(text: str) -> None:
    jsonschema.validate(json.loads(text), SCHEMA)
    envelope = Codec().decode(text, "q", "M1", sent_at=5.0)

    assert (envelope.id, envelope.sent_at) == ("M1", 5.0)


def test_the_tags_of_celery_are_read() -> None:
    text = json.dumps(
        {
            "task": "t",
            "args": [
                {"__type__": "uuid", "__value__": {"hex": "9afb277370274344a72f3c5705e0005d", "version": 4}},
                {"__type__": "decimal", "__value__": "1.5"},
                {"__type__": "bytes", "__value__": "abc"},
                {"__type__": "base64", "__value__": "AP8="},
            ],
        }
    )

    args = Codec().decode(text, "q", "M1").args

    assert (args[0].hex, args[1], args[2], args[3]) == (
        "9afb277370274344a72f3c5705e0005d",
        Decimal("1.5"),
        b"abc",
        b"\x00\xff",
    )


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("", DecodeError, "not JSON"),
        ("[" * 5_000_000, DecodeError, "nested too deeply"),
        ('{"task": "t", "args": ' + "[" * 300 + "]" * 300 + "}", DecodeError, "nested deeper than 100"),
        ("[]", DecodeError, "JSON object"),
        ("{}", DecodeError, r"\$\.task"),
        ('{"task": ""}', DecodeError, r"\$\.task"),
        ('{"task": 5}', DecodeError, r"\$\.task is text"),
        ('{"task": "t", "args": {}}', DecodeError, r"\$\.args is an array"),
        ('{"task": "t", "kwargs": []}', DecodeError, r"\$\.kwargs is an object"),
        ('{"task": "t", "retries": -1}', DecodeError, r"\$\.retries"),
        ('{"task": "t", "retries": true}', DecodeError, r"\$\.retries"),
        ('{"task": "t", "eta": "soon"}', DecodeError, r"\$\.eta"),
        ('{"task": "t", "eta": 1e300}', DecodeError, r"\$\.eta"),
        ('{"task": "t", "time_limit": 0}', DecodeError, r"\$\.time_limit"),
        ('{"task": "t", "headers": []}', DecodeError, r"\$\.headers|headers"),
        ('{"task": "t", "link": [{"args": []}]}', DecodeError, r"\$\.link\[0\]"),
        ('{"task": "t", "link": [{"task": "x", "options": []}]}', DecodeError, r"options is an object"),
        ('{"task": "t", "group": {"id": 1}}', DecodeError, r"\$\.group\.id"),
        ('{"task": "t", "v": 2}', UnsupportedVersion, "wire format 2"),
        ('{"task": "t", "v": "1"}', DecodeError, r"\$\.v"),
        ('{"task": "t", "args": [], "content": {}}', DecodeError, "stands beside"),
        (
            '{"task": "t", "content": {"type": "x", "encoding": "base64", "data": ""}}',
            ContentDisallowed,
            "accept_content",
        ),
        (
            '{"task": "t", "content": {"type": "application/json", "encoding": "rot13", "data": ""}}',
            DecodeError,
            "rot13",
        ),
        (
            '{"task": "t", "content": {"type": "application/json", "encoding": "base64", "data": "!"}}',
            DecodeError,
            "base64",
        ),
        ('{"task": "t", "ref": {"uri": "s3://x"}}', DecodeError, r"\$\.ref"),
        ('{"task": "t", "args": [{"__type__": "nope", "__value__": 1}]}', DecodeError, "tagged 'nope'"),
        (
            '{"task": "t", "args": [{"__type__": "int", "__value__": "' + "9" * 5000 + '"}]}',
            DecodeError,
            "int",
        ),
    ],
)
def test_bad_messages_say_what_is_wrong(text: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        Codec().decode(text, "q", "M")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    [
        "v",
        "id",
        "task",
        "args",
        "kwargs",
        "eta",
        "expires",
        "retries",
        "group",
        "chord",
        "chain",
        "link",
        "headers",
    ]
)


@settings(max_examples=150, deadline=None)
@given(
    st.text()
    | st.dictionaries(FIELDS, JSON, max_size=6).map(lambda found: json.dumps({"task": "t", **found}))
)
def test_no_text_raises_anything_but_a_message_error(text: str) -> None:
    for codec in (Codec(), Codec(keys=KEYS, accept_content=("json", "msgpack", "yaml", "pickle"))):
        try:
            codec.decode(text, "q", "M")
        except MessageError as error:
            assert error.reason
            assert str(error)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary()
    | st.decimals(allow_nan=False)
    | st.datetimes(timezones=st.just(UTC))
    | st.dates()
    | st.timedeltas()
    | st.uuids(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=5) | st.integers(), inner, max_size=4
        )
        | st.dictionaries(st.sampled_from(["__type__", "__value__", "x"]), inner, max_size=3)
    ),
    max_leaves=15,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(VALUES, max_size=3))
def test_what_is_written_is_read(values: list[Any]) -> None:
    codec = Codec()
    text = codec.encode(Envelope(task="t", id="T", args=tuple(values)), "q")

    assert list(codec.decode(text, "q", "M").args) == values
    assert not any(ord(c) < 0x20 or c in "\ufffe\uffff" for c in text)


# --- signing and pickle ----------------------------------------------------------------------------


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
    text = change(signed().replace('\\"args\\":[1]', '\\"args\\":[1]'))
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


# --- compression -----------------------------------------------------------------------------------


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
    import base64

    raw = base64.b64decode(document["content"]["data"])
    document["content"]["data"] = base64.b64encode(raw[:-9]).decode()
    with pytest.raises(DecodeError):
        codec.decode(json.dumps(document), "q", "M")


def test_unknown_names_are_refused_when_the_app_starts() -> None:
    with pytest.raises(ImproperlyConfigured, match="rot13"):
        Codec(compression="rot13")
    with pytest.raises(ImproperlyConfigured, match="did you mean 'json'"):
        Codec(serializer="jsn")


# --- results ---------------------------------------------------------------------------------------


def test_results_in_another_serializer() -> None:
    codec = Codec(result_serializer="msgpack", accept_content=("json", "msgpack"))
    packed = codec.pack({"x": b"\x00"})

    assert json.dumps(packed)
    assert codec.unpack(packed) == {"x": b"\x00"}
    with pytest.raises(ContentDisallowed):
        Codec().unpack(packed)


def test_what_cannot_be_written_names_its_place() -> None:
    with pytest.raises(SerializationError, match=r"\$\['a'\]\[0\]\.y"):
        from cloudq.testing.contracts.serializer import Point

        Codec().pack({"a": [Point(1, object())]})  # type: ignore[arg-type]
