"""The quick reader of task messages says what the careful one says, or nothing."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudq.errors import MessageError, SignatureInvalid
from cloudq.message import Envelope, GroupRef
from cloudq.serializers import usual
from cloudq.serializers.codec import Codec

SENT = "2026-11-21T12:00:00.500000Z"
#: What fields may hold, rightly and wrongly.
VALUES: dict[str, list[Any]] = {
    "v": [1, 1.0, True, 2, 0, None, "1"],
    "id": ["T1", "", ".", "..", "x" * 85, "x" * 86, "ü" * 86, "x" * 769, None, 5],
    "task": ["t", "", None, 5],
    "args": [
        [],
        [1, "a", None, 1.5],
        [[1, {"a": [2]}]],
        None,
        {},
        [{"__type__": "decimal", "__value__": "1"}],
    ],
    "kwargs": [{}, {"a": 1}, {"a": {"__type__": "nope"}}, None, []],
    "eta": [
        SENT,
        "2026-11-21T12:00:00Z",
        "2026-11-21",
        "2026-W47-6T12:00:00.500000Z",
        "soon",
        5,
        1e300,
        None,
    ],
    "expires": [
        SENT,
        "20261121T120000,123.500000Z",
        "2026-11-21T12:00:00.12345\u0663Z",
        "1600-01-01T00:00:00.000001Z",
    ],
    "sent_at": [SENT, 5.5, True, None, "2026-11-21T12:00:00.500000z", "2026-11-21T12:00:60.500000Z", []],
    "retries": [0, 3, 1.0, True, -1, 2**31, 10**30, None],
    "root_id": ["r", "", None, 5],
    "parent_id": ["p", None, 5],
    "origin": ["1@host", "", None, {}],
    "group": [
        {"id": "g", "index": 1, "size": 2},
        {"id": "g"},
        {"id": "g", "index": 1, "later": 1},
        {"id": "", "index": 1},
        {"id": ".", "index": 1},
        {"id": "g", "index": None},
        {"id": "g", "index": -1},
        {"id": "g", "index": 1, "size": None},
        None,
        [],
    ],
    "chord": [{"task": "b"}, {"task": ""}, {}, {"task": "b", "options": []}, None, [{"task": "b"}]],
    "chain": [[{"task": "n", "args": [1]}], {"task": "n"}, [{}], [5], [], None],
    "link": [[{"task": "l"}], [{"task": "l", "kwargs": []}], None],
    "link_error": [[{"task": "e"}], [{"task": None}]],
    "time_limit": [1, 0.5, 0, -1, 1e10, True, "5", None],
    "soft_time_limit": [1, None, []],
    "headers": [{}, {"a": [1]}, None, [], {"a": {"__type__": "set", "__value__": [1]}}],
    "extra": [{}, {"a": 1}, None],
    "later": [1],
    "content": [{"type": "application/json", "encoding": "base64", "data": "W1sxXSx7fV0="}],
    "ref": [{"uri": "s3://x/y", "size": 1, "sha256": "0" * 64}],
    "signed": ['{"task": "t"}', 5],
}
DOCUMENTS = st.sets(st.sampled_from(sorted(VALUES)), max_size=6).flatmap(
    lambda names: st.fixed_dictionaries({name: st.sampled_from(VALUES[name]) for name in sorted(names)})
)


def careful(text: str) -> Envelope | None:
    """What the codec says without its quick reader; None: it refuses."""
    codec = Codec()
    try:
        return codec._read(*codec._open(text, "q"), "M", 7.0)
    except MessageError:
        return None


@settings(max_examples=600, deadline=None)
@given(DOCUMENTS, st.booleans())
def test_both_readers_agree(document: dict[str, Any], named: bool) -> None:
    text = json.dumps({"task": "t", **document} if named else document, ensure_ascii=False)
    quick = usual.read(text, "M", 7.0)

    assert quick is None or quick == careful(text)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in VALUES for value in VALUES[name]])
def test_both_readers_agree_on_each_field(name: str, value: Any) -> None:
    text = json.dumps({"v": 1, "task": "t", name: value}, ensure_ascii=False)
    quick = usual.read(text, "M", 7.0)

    assert quick is None or quick == careful(text)


def test_what_cloudq_writes_itself_is_read_quickly() -> None:
    signature = {"task": "n", "args": [1], "kwargs": {}, "options": {"task_id": "x"}}
    envelope = Envelope(
        task="t",
        id="9afb2773-7027-4344-a72f-3c5705e0005d",
        args=(1, ["a", {"b": None}]),
        kwargs={"c": 1.5},
        eta=1_795_262_460.25,
        expires=1_795_262_460.0,
        retries=2,
        root_id="root",
        parent_id="parent",
        group=GroupRef("g", 3, 10),
        chord=signature,
        chain=(signature,),
        link=(signature,),
        link_error=(signature,),
        time_limit=30.0,
        soft_time_limit=25.0,
        headers={"tenant": "acme"},
        origin="1@host",
        sent_at=1_795_262_400.123457,
    )

    assert usual.read(Codec().encode(envelope, "q"), "M", None) == envelope


def test_a_message_that_does_not_say_its_id_and_moment_takes_those_of_the_queue() -> None:
    found = usual.read('{"task": "t"}', "M", 7.0)

    assert found is not None
    assert (found.id, found.sent_at) == ("M", 7.0)


@pytest.mark.parametrize(
    "text",
    [
        r'{"task": "t", "args": [{"\u005f_type__": "decimal", "__value__": "1"}]}',
        '{"task": "t", "args": [{"__type__": "decimal", "__value__": "1"}]}',
        '{"task": "t", "args": ' + "[" * 200 + "]" * 200 + "}",
        '{"task": "t", "args": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"task": "t", "args": ["\ud800"]}',
        '{"task": "t", "later": 1}',
        "nonsense",
    ],
)
def test_what_is_out_of_the_ordinary_is_left_to_the_careful_reader(text: str) -> None:
    assert usual.read(text, "M", 7.0) is None


def test_the_quick_reader_is_no_way_around_signatures_and_accept_content() -> None:
    keys = {"k1": "a secret of at least sixteen bytes"}
    with pytest.raises(SignatureInvalid):
        Codec(keys=keys, security_required=True).decode('{"task": "t"}', "q", "M")
    forged = json.dumps({"v": 1, "signed": '{"task": "t"}', "signature": {"key": "k1", "value": "x"}})
    with pytest.raises(MessageError):
        Codec(keys=keys).decode(forged, "q", "M")
    with pytest.raises(MessageError, match="accept_content"):
        Codec(accept_content=("msgpack",), serializer="msgpack").decode(
            '{"task": "t", "args": [1]}', "q", "M"
        )


def test_a_signed_message_is_read_quickly_once_its_signature_is_found_good(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    codec = Codec(keys={"k1": "a secret of at least sixteen bytes"}, security_required=True)
    body = codec.encode(Envelope("t", "T1", args=(1,), sent_at=5.0), "q")
    seen: list[str] = []
    monkeypatch.setattr(usual, "_read", lambda text, read=usual._read: (seen.append(text), read(text))[1])

    assert codec.decode(body, "q", "M") == Envelope("t", "T1", args=(1,), sent_at=5.0)
    assert seen == [json.loads(body)["signed"]]


@settings(max_examples=200, deadline=None)
@given(st.integers(-60_000_000_000_000_000, 250_000_000_000_000_000))
def test_moments_are_read_to_the_microsecond_as_the_careful_reader_does(micros: int) -> None:
    text = Codec().encode(Envelope("t", "T", sent_at=micros / 1_000_000), "q")
    quick = usual.read(text, "M", None)

    assert quick is not None
    assert quick == careful(text)
