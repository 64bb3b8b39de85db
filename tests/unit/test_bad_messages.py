"""Whatever is sent to a queue by whoever: it never runs, and the dead-letter queue says why (issue 10)."""

from __future__ import annotations

import base64
import bz2
import gzip
import hashlib
import hmac
import json
import logging
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from drivers import DRIVERS, driven

from cloudq import CloudQ, Reject
from cloudq.brokers.base import Message
from cloudq.message import Envelope
from cloudq.security.encryption import Sealer
from cloudq.serializers.codec import Codec
from cloudq.serializers.compression import compress
from cloudq.testing import ManualClock, Sandbox, sandbox

SECRET, OTHER = "a secret of at least sixteen bytes", "not the secret of this very app!"
AES = base64.b64encode(bytes(range(32))).decode()
QUEUE = "cloudq"
ran: list[Any] = []


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_800_000_000.0)


@pytest.fixture(params=DRIVERS)
def box(clock: ManualClock, request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    ran.clear()
    app = CloudQ(
        "safe",
        security_keys={"k": SECRET, "old": {"secret": SECRET + "!", "use": "read", "expires": 1_700_000_000}},
        security_encryption_keys={"e": AES},
        security_required=True,
    )

    @app.task(name="note")
    def note(*values: Any) -> None:
        ran.append(values)

    with sandbox(app, clock) as found, driven(found, request.param):
        yield found


def write(keys: dict[str, Any] | None = None, queue: str = QUEUE, aes: str | None = AES, **more: Any) -> str:
    sealer = Sealer({"e": aes}) if aes else None
    clock = ManualClock(1_600_000_000.0)  # when the old key still counted
    codec = Codec(keys=keys if keys is not None else {"k": SECRET}, sealer=sealer, clock=clock, **more)
    return codec.encode(Envelope(task="note", id="T1", args=("x" * 2_000,)), queue)


def signed(text: str) -> str:
    """``text``, whatever it is, rightly signed."""
    return Codec(keys={"k": SECRET}).seal(text, QUEUE)


def inner(change: Callable[[dict[str, Any]], None]) -> str:
    """A rightly signed message whose text was changed before it was signed."""
    document = json.loads(json.loads(write())["signed"])
    change(document)
    return signed(json.dumps(document))


def flip(document: dict[str, Any]) -> None:
    data = bytearray(base64.b64decode(document["encrypted"]["data"]))
    data[40] ^= 1
    document["encrypted"]["data"] = base64.b64encode(bytes(data)).decode()


def bomb() -> str:
    data = base64.b64encode(gzip.compress(b'["' + b"a" * 80_000_000 + b'", {}]')).decode()
    return signed(
        json.dumps(
            {"task": "note", "content": {"type": "application/json", "encoding": "gzip+base64", "data": data}}
        )
    )


BAD: dict[str, tuple[Callable[[], str], str, str]] = {
    "unsigned": (lambda: '{"task": "note"}', "signature_invalid", "not signed"),
    "forged": (lambda: write({"k": OTHER}), "signature_invalid", "does not fit"),
    "of an unknown key": (lambda: write({"k9": SECRET}), "signature_invalid", "k9"),
    "of an expired key": (lambda: write({"old": SECRET + "!"}), "signature_invalid", "expired"),
    "of another queue": (lambda: write(queue="other"), "signature_invalid", "queue 'cloudq'"),
    "truncated": (lambda: write()[:-40], "undecodable", "JSON"),
    "with other algorithm": (lambda: write().replace('"hs256"', '"none"'), "signature_invalid", "none"),
    "changed": (lambda: write().replace("T1", "T2"), "signature_invalid", "does not fit"),
    "with flipped bits": (lambda: inner(flip), "decryption_failed", "changed since"),
    "encrypted with another key": (
        lambda: write(aes=base64.b64encode(bytes(32)).decode()), "decryption_failed", "key 'e'",
    ),
    "for another id": (lambda: inner(lambda each: each.update(id="T9")), "decryption_failed", "changed since"),
    "a zip bomb": (bomb, "undecodable", "64 MiB|67,?108,?864|unfold"),
    "nested brackets": (lambda: signed("[" * 100_000), "undecodable", ""),
    "nested arguments": (
        lambda: signed('{"task": "note", "args": ' + "[" * 300 + "]" * 300 + "}"), "undecodable", "deep|nest|level",
    ),
    "a huge number": (lambda: signed('{"task": "note", "args": [' + "9" * 400_000 + "]}"), "undecodable", ""),
    "of no text": (lambda: signed('{"task": 7}'), "undecodable", "task"),
    "of an unknown task": (lambda: signed('{"task": "os.system", "id": "T1", "args": ["id"]}'), "unknown_task", "os.system"),
    "pickled": (
        lambda: signed('{"task": "note", "content": {"type": "application/x-python-pickle", "encoding": "base64", "data": "gASV"}}'),
        "content_disallowed", "accept_content",
    ),
    "without an id": (lambda: signed('{"task": "note"}'), "signature_invalid", "no id"),
    "encrypted, and robbed of its id": (lambda: inner(lambda each: each.pop("id")), "decryption_failed", "changed since"),
    "signed twice": (lambda: signed(write()), "undecodable", "signed message inside"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_message_is_buried_with_its_reason_at_little_cost(box: Sandbox, name: str) -> None:
    make, reason, words = BAD[name]
    body = make()
    box.app.broker.send(QUEUE, [Message(body)])
    tracemalloc.start()
    began = time.process_time()
    box.drain()
    spent = time.process_time() - began
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    [letter] = box.buried
    assert ran == []
    assert letter.reason == reason
    assert not words or any(word in letter.detail for word in words.split("|")), letter.detail
    assert len(letter.detail) < 1_000
    assert peak < 200 * 1024 * 1024
    assert spent < 10.0
    assert letter.body == body


@pytest.mark.parametrize("driver", DRIVERS)
def test_ten_megabytes_of_brackets_kept_elsewhere_are_buried_too(
    tmp_path: Any, clock: ManualClock, driver: str
) -> None:
    ran.clear()
    app = CloudQ("safe", broker_large_messages=f"file:///{tmp_path}")

    @app.task(name="note")
    def note(*values: Any) -> None:
        ran.append(values)

    with sandbox(app, clock) as box, driven(box, driver):
        claims = app.producer._claims
        assert claims is not None
        text = '{"task": "note", "args": ' + "[" * 10_000_000
        ref = claims.store(text)
        box.app.broker.send(QUEUE, [Message(json.dumps({"task": "note", "ref": ref.plain()}))])
        tracemalloc.start()
        box.drain()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        [letter] = box.buried
    assert letter.reason == "undecodable"
    assert ran == []
    assert peak < 100 * 1024 * 1024


UNKNOWN = "antigravity"  # of the standard library; importing it opens a browser
NAMING: list[dict[str, Any]] = [
    {"task": f"{UNKNOWN}.fly"},
    {"task": "note", "args": [{"__type__": f"{UNKNOWN}.Thing", "__value__": {}}]},
    {"task": "note", "args": [{"__type__": "class", "__value__": f"{UNKNOWN}:fly"}]},
    {"task": "note", "content": {"type": f"application/x-{UNKNOWN}", "encoding": "base64", "data": ""}},
    {"task": "note", "content": {"type": "application/x-yaml", "encoding": "base64", "data": base64.b64encode(f"- [!!python/module:{UNKNOWN} x]\n- {{}}".encode()).decode()}},
    {"task": "note", "content": {"type": "application/json", "encoding": f"{UNKNOWN}+base64", "data": ""}},
    {"task": "note", "link": [{"task": f"{UNKNOWN}.fly"}], "link_error": [{"task": f"{UNKNOWN}.fly"}], "headers": {"module": UNKNOWN}},
    {"task": "note", "ref": {"uri": f"{UNKNOWN}://x", "size": 1, "sha256": "0" * 64}},
]  # fmt: skip


@pytest.mark.parametrize("driver", DRIVERS)
def test_no_message_has_a_module_imported_that_it_names(clock: ManualClock, driver: str) -> None:
    assert UNKNOWN not in sys.modules
    app = CloudQ("safe", accept_content=["json", "yaml"])

    @app.task(name="note")
    def note(*values: Any) -> None: ...

    with sandbox(app, clock) as box, driven(box, driver):
        for number, each in enumerate(NAMING):
            box.app.broker.send(QUEUE, [Message(json.dumps({"id": f"T{number}", **each}))])
        box.drain()
        assert len(box.buried) >= len(NAMING) - 1  # one runs, and what it is followed by is nobody's task
    assert UNKNOWN not in sys.modules


HIDDEN = "my-very-own-card"


@pytest.mark.parametrize("driver", DRIVERS)
def test_no_line_of_the_log_and_no_reason_shows_what_is_sensitive(
    clock: ManualClock, caplog: pytest.LogCaptureFixture, driver: str
) -> None:
    app = CloudQ("safe", result_extended=True)

    @app.task(name="pay", sensitive="card", bind=True, max_retries=1, dead_letter=True)
    def pay(self: Any, card: str, how: str = "well", password: str = "") -> None:
        if how == "again":
            raise self.retry(countdown=0)
        if how == "badly":
            raise ValueError("no money")
        if how == "away":
            raise Reject("not here")

    with caplog.at_level(logging.DEBUG), sandbox(app, clock) as box, driven(box, driver):
        for how in ("well", "again", "badly", "away"):
            pay.delay(HIDDEN, how, password=HIDDEN)
        wrong = {"task": "pay", "id": "T", "args": [HIDDEN] * 7, "kwargs": {"card": HIDDEN}}
        box.app.broker.send(QUEUE, [Message(json.dumps(wrong))])
        box.drain()
        details = [each.detail for each in box.buried]
    assert len(details) >= 3
    assert "no money" in caplog.text
    assert HIDDEN not in caplog.text
    assert not any(HIDDEN in each for each in details), details


YAML = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
#: Content types that are accepted, and what would unfold to gigabytes, or to a stack without an end.
FOLDED: dict[str, tuple[str, str, bytes]] = {
    "aliases": ("application/x-yaml", "base64", f"- []\n- {{{YAML.replace(chr(10), ', ')}}}".encode()),
    "deep yaml": ("application/x-yaml", "base64", b"[" * 100_000),
    "deep msgpack": ("application/x-msgpack", "base64", b"\x91" * 500_000),
    "a long msgpack": ("application/x-msgpack", "base64", b"\x92\xdd\xff\xff\xff\xff"),
    "bzip2": ("application/json", "bzip2+base64", bz2.compress(b'["' + b"a" * 80_000_000 + b'", {}]')),
    "zstd": (
        "application/json",
        "zstd+base64",
        compress("zstd", b'["' + b"a" * 80_000_000 + b'", {}]'),
    ),
}


SAID = {
    "aliases": "YAML aliases",
    "deep yaml": "deeper than 100 levels",
    "deep msgpack": "recursion depth",
    "a long msgpack": "truncated",
    "bzip2": "unfolds to more than",
    "zstd": "unfolds to more than",
}


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("name", FOLDED)
def test_a_bomb_in_any_accepted_content_is_buried_at_little_cost(
    clock: ManualClock, name: str, driver: str
) -> None:
    ran.clear()
    app = CloudQ("safe", accept_content=["json", "yaml", "msgpack"])

    @app.task(name="note")
    def note(*values: Any) -> None:
        ran.append(values)

    kind, encoding, data = FOLDED[name]
    content = {"type": kind, "encoding": encoding, "data": base64.b64encode(data).decode()}
    with sandbox(app, clock) as box, driven(box, driver):
        box.app.broker.send(QUEUE, [Message(json.dumps({"task": "note", "content": content}))])
        tracemalloc.start()
        box.drain()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        [letter] = box.buried
    assert (ran, letter.reason) == ([], "undecodable")
    assert SAID[name] in letter.detail
    assert peak < 200 * 1024 * 1024


@pytest.mark.parametrize(
    "text",
    [
        '{"task": "note", "headers": {"periodic_task_name": "nightly"}}',
        '{"task": "note", "id": "mine", "args": [1, "ü"]}',
    ],
)
def test_a_message_written_and_signed_by_hand_runs(box: Sandbox, text: str) -> None:
    """By docs/reference/protocol.md, with nothing of cloudq; the bad ones above are its counterparts."""
    moment = "2026-11-21T12:00:00Z"
    parts = [part.encode() for part in (QUEUE, moment, text)]
    data = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    mac = base64.b64encode(hmac.new(SECRET.encode(), data, hashlib.sha256).digest()).decode()
    signature = {"alg": "hs256", "key": "k", "time": moment, "mac": mac}
    box.app.broker.send(QUEUE, [Message(json.dumps({"v": 1, "signed": text, "signature": signature}))])
    box.drain()
    assert len(ran) == 1
    assert box.buried == []


def test_a_message_that_is_sent_again_is_recognised_by_its_id(box: Sandbox) -> None:
    body = write()
    for _ in range(2):
        box.app.broker.send(QUEUE, [Message(body)])
        box.drain()
    assert len(ran) == 1
    assert box.buried == []


@pytest.mark.parametrize("text", ["x\n[ERROR] all is lost", "x\r\x1b[2J", "x\x85y\u2028z"])
def test_no_words_of_a_message_make_a_line_of_their_own_in_the_log(
    clock: ManualClock, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    app = CloudQ("open", accept_content=["json", "yaml"])

    @app.task(name="note")
    def note() -> None: ...

    @app.task(name="fail")
    def fail() -> None:
        raise ValueError("no")

    yaml = base64.b64encode(b"a: [\n[ERROR] all is lost").decode()
    content = {"type": "application/x-yaml", "encoding": "base64", "data": yaml}
    messages = [
        {"task": "note", "id": text},
        {"task": "fail", "id": text},
        {"task": text, "id": "T"},
        {"task": "note", "content": {"type": text, "encoding": "base64", "data": ""}},
        {"task": "note", "content": content},
    ]
    with caplog.at_level(logging.INFO, "cloudq"), sandbox(app, clock) as box:
        for each in messages:
            box.app.broker.send(QUEUE, [Message(json.dumps(each))])
        box.drain()
        assert len(box.buried) == 3
    said = [each.getMessage() for each in caplog.records if each.name.startswith("cloudq")]
    assert len(said) >= 5
    for each in said:
        head = each.partition("\nTraceback")[0]
        assert len(head.splitlines()) == 1, head
        assert "\x1b" not in head
