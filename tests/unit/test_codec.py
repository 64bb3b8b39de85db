"""The wire format: golden files, the schema, and that no text whatever raises anything unforeseen."""

import hashlib
import json
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudq.errors import (
    ContentDisallowed,
    DecodeError,
    MessageError,
    SerializationError,
    UnsupportedVersion,
)
from cloudq.message import Envelope, GroupRef, PayloadRef
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
TAGGED: dict[str, Any] = {
    "datetime": datetime(2026, 11, 21, 12, 30, 1, 123456, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    "date": date(2026, 11, 21),
    "time": time(12, 30),
    "timedelta": timedelta(days=-1, seconds=3, microseconds=7),
    "uuid": UUID("9afb2773-7027-4344-a72f-3c5705e0005d"),
    "decimal": Decimal("1.10"),
    "base64": b"\x00\xff",
    "set": {1, 2},
    "int": 2**64,
    "float": [float("inf"), float("-inf")],
    "dict": [{1: "a", (2, 3): "b"}, {"__type__": "mine"}],
}
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
    "tags": (Envelope(task="t", id="T1", args=(TAGGED,)), {}, {}),
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


class Kept:
    """One text, kept elsewhere."""

    def __init__(self, text: str) -> None:
        data = text.encode()
        self.text = text
        self.ref = PayloadRef("s3://bucket/messages/0f3c", len(data), hashlib.sha256(data).hexdigest())

    def load(self, ref: PayloadRef) -> str:
        assert ref == self.ref
        return self.text


@pytest.mark.parametrize("name", ["ref", "ref-signed"])
def test_golden_files_of_messages_kept_elsewhere(name: str) -> None:
    keys = KEYS if name == "ref-signed" else None
    kept = Kept(Codec().write(FULL))
    codec = Codec(keys=keys, payloads=kept, clock=ManualClock(NOW))
    path = GOLDEN / f"{name}.json"
    body = codec.seal(codec.refer(FULL, kept.ref), "orders")

    assert path.read_text("utf-8") == body, f"the wire format changed: {path.name}"
    assert codec.decode(body, "orders", "M1") == FULL
    jsonschema.validate(json.loads(body), SCHEMA)


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
        ('{"task": "t", "group": {"id": ""}}', DecodeError, r"\$\.group\.id"),
        ('{"task": "t", "id": "."}', DecodeError, r"\$\.id"),
        ('{"task": "t", "id": "' + "x" * 769 + '"}', DecodeError, r"\$\.id"),
        ('{"task": "t", "id": null}', DecodeError, r"\$\.id"),
        ('{"task": "t", "group": {"id": "' + "ü" * 300 + '"}}', DecodeError, r"\$\.group\.id"),
        (json.dumps({"signed": '{"task": "t", "signed": "x"}'}), DecodeError, "signed message inside"),
        ('{"task": "t", "signed": 5}', DecodeError, r"\$\.signed is not text"),
        ('{"task": "t", "args": [1e999]}', DecodeError, "not JSON"),
        ('{"task": "t", "args": [' + "9" * 5000 + "]}", DecodeError, "not JSON"),
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


@pytest.mark.parametrize("tag", ["datetime", "date", "time", "timedelta", "uuid", "decimal", "base64"])
@pytest.mark.parametrize("value", [5, None, True, ["x"], [{}], {}, {"hex": 5}, "non-sense", "ü"])
def test_a_tag_around_nonsense_is_a_decode_error(tag: str, value: Any) -> None:
    text = json.dumps({"task": "t", "args": [{"__type__": tag, "__value__": value}]})
    with pytest.raises(DecodeError, match=f"tagged '{tag}' cannot be read"):
        Codec().decode(text, "q", "M")


def test_a_tag_spelled_with_escapes_is_still_a_tag() -> None:
    text = r'{"task": "t", "args": [{"\u005f_type__": "decimal", "__value__": "1"}]}'

    assert Codec().decode(text, "q", "M").args == (Decimal(1),)


def test_memory_that_runs_out_does_not_bury_the_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr("cloudq.serializers.json._decode", full)
    monkeypatch.setattr("cloudq.serializers.usual._read", full)
    with pytest.raises(MemoryError):
        Codec().decode('{"task": "t"}', "q", "M")


@pytest.mark.parametrize(
    ("envelope", "says"),
    [
        (Envelope(task=""), r"\$\.task"),
        (Envelope(task="t", id=".."), r"\$\.id"),
        (Envelope(task="t", id="x" * 769), r"768.*\$\.id"),
        (Envelope(task="t", eta=float("nan")), r"\$\.eta"),
        (Envelope(task="t", expires=1e18), r"\$\.expires"),
        (Envelope(task="t", retries=-1), r"\$\.retries"),
        (Envelope(task="t", time_limit=0), r"\$\.time_limit"),
        (Envelope(task="t", soft_time_limit=float("inf")), r"\$\.soft_time_limit"),
        (Envelope(task="t", group=GroupRef("", 0)), r"\$\.group\.id"),
        (Envelope(task="t", group=GroupRef("g", -1)), r"\$\.group\.index"),
        (Envelope(task="t", link=({"args": [1]},)), r"\$\.link\[0\]"),
        (Envelope(task="t", headers={"x": [object()]}), r"\$\.headers\['x'\]\[0\]"),
        (Envelope(task="t", kwargs={1: 2}), "are text, not 1"),  # type: ignore[dict-item]
        (Envelope(task="t", kwargs={"__type__": 2}), "may be called __type__"),
        (Envelope(task="t\ud800"), "cannot be written"),
    ],
)
def test_what_a_reader_would_bury_is_not_sent(envelope: Envelope, says: str) -> None:
    with pytest.raises(SerializationError, match=says):
        Codec().encode(envelope, "q")


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


WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
MOMENTS = st.none() | st.integers(0, 4_000_000_000).map(float)
SIGNATURES = st.lists(
    st.fixed_dictionaries({"task": WORDS}, optional={"args": st.just([1])}), max_size=2
).map(tuple)
ENVELOPES = st.builds(
    Envelope,
    task=WORDS,
    id=WORDS.filter(lambda found: found not in (".", "..")),
    args=st.lists(VALUES, max_size=2).map(tuple),
    kwargs=st.dictionaries(WORDS, VALUES, max_size=2),
    eta=MOMENTS,
    expires=MOMENTS,
    retries=st.integers(0, 100),
    root_id=st.none() | WORDS,
    group=st.none() | st.builds(GroupRef, st.just("g"), st.integers(0, 9), st.none() | st.integers(0, 9)),
    link=SIGNATURES,
    chain=SIGNATURES,
    time_limit=st.none() | st.floats(0.1, 1e6),
    headers=st.dictionaries(WORDS, VALUES, max_size=2),
    sent_at=MOMENTS,
)


@settings(max_examples=100, deadline=None)
@given(ENVELOPES, st.sampled_from(["json", "msgpack", "yaml"]), st.sampled_from([None, "gzip", "zstd"]))
def test_every_envelope_comes_back_and_keeps_to_the_schema(
    envelope: Envelope, serializer: str, compression: str | None
) -> None:
    codec = Codec(
        accept_content=("json", "msgpack", "yaml"),
        serializer=serializer,
        compression=compression,
        compression_threshold=50,
    )
    text = codec.encode(envelope, "q")

    assert codec.decode(text, "q", "M") == envelope
    jsonschema.validate(json.loads(text), SCHEMA)


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


def test_a_result_that_looks_like_packed_content_comes_back_as_itself() -> None:
    codec = Codec(accept_content=("json", "pickle"), keys={"k1": "a secret of at least sixteen bytes"})
    stolen = codec.pack({1, 2}, "pickle")

    for value in (stolen, {"__content__": 5}, {"__content__": 1, "x": 2}, [{"__content__": {}}]):
        assert codec.unpack(json.loads(json.dumps(codec.pack(value)))) == value
