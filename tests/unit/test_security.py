"""Keys, encryption and sealed stores: who may read and write, and what is said to everybody else."""

from __future__ import annotations

import base64
import errno
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cloudq import CloudQ
from cloudq.aws.port import AwsError, Call
from cloudq.backends.sealed import SealedBackend
from cloudq.cli.main import cli
from cloudq.errors import (
    AccessDenied,
    CorruptRecord,
    DecodeError,
    DecryptionFailed,
    ImproperlyConfigured,
    SignatureInvalid,
)
from cloudq.message import Envelope
from cloudq.security import keyfile
from cloudq.security.encryption import Sealer
from cloudq.security.keys import HMAC, read_key, read_key_file
from cloudq.security.kms import LIFETIME, USES, KmsKeys
from cloudq.security.signing import KeyRing
from cloudq.serializers.codec import Codec
from cloudq.testing import sandbox
from cloudq.testing.clock import ManualClock
from cloudq.testing.stores import MemoryStore


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


ONE, TWO = b64(bytes(range(32))), b64(bytes(range(1, 33)))
PRIVATE = "ed25519:" + ONE
SECRET = "a secret of at least sixteen bytes"


# --- keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("short", "shorter than 16"),
        (7, "text or a mapping"),
        ({"alg": "rot13"}, "rot13"),
        ({"alg": "hs256"}, "lacks its secret"),
        ({"secret": SECRET, "use": "sometimes"}, "use is one of"),
        ({"secret": SECRET, "expires": "soon"}, "ISO-8601"),
        ({"secret": SECRET, "colour": 1}, "no part 'colour'"),
        ("ed25519:AAAA", "32 bytes"),
        ("ed25519:!", "not base64"),
        ("env:NO_SUCH_VARIABLE", "NO_SUCH_VARIABLE"),
        ("file:/no/such/file", "cannot be read"),
    ],
)
def test_a_key_that_is_none_is_refused_by_name(given: Any, words: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=words) as caught:
        read_key("mine", given, HMAC)
    assert "mine" in str(caught.value) or "/no/such/file" in str(caught.value)


def test_a_key_may_come_from_the_environment_or_from_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("THE_KEY", SECRET)
    assert read_key("k", "env:THE_KEY", HMAC).secret == SECRET.encode()
    file = tmp_path / "secret"
    file.write_text(SECRET + "\n")
    file.chmod(0o600)
    assert read_key("k", f"file:{file}", HMAC).secret == SECRET.encode()
    file.chmod(0o640)
    with pytest.raises(ImproperlyConfigured, match="chmod 600"):
        read_key("k", f"file:{file}", HMAC)


def test_a_key_does_not_show_its_secret() -> None:
    assert SECRET not in repr(read_key("k", SECRET, HMAC))


# --- Ed25519, expiry, direction ----------------------------------------------------------------------


def public(private: str = PRIVATE) -> str:
    from cloudq.security.signing import public_part

    return "ed25519-public:" + b64(public_part(read_key("k", private, HMAC)))


def test_who_has_the_public_part_verifies_and_cannot_sign() -> None:
    writer, reader = KeyRing({"k": PRIVATE}), KeyRing({"k": public()})
    signature = writer.sign("text", "q", "now").plain()
    assert signature["alg"] == "ed25519"
    reader.verify("text", "q", signature)
    for text, queue in (("other", "q"), ("text", "other")):
        with pytest.raises(SignatureInvalid, match="does not fit"):
            reader.verify(text, queue, signature)
    assert not reader.signs
    with pytest.raises(ImproperlyConfigured, match="may sign"):
        reader.sign("text", "q", "now")


def test_a_public_key_is_never_taken_for_an_hmac_secret() -> None:
    reader = KeyRing({"k": public()})
    forged = KeyRing({"k": public().partition(":")[2]}).sign("text", "q", "now").plain()
    with pytest.raises(SignatureInvalid, match="is for ed25519"):
        reader.verify("text", "q", forged)


def test_a_key_that_only_writes_does_not_read_and_one_that_only_reads_does_not_write() -> None:
    writes = KeyRing({"k": {"secret": SECRET, "use": "write"}})
    reads = KeyRing({"k": {"secret": SECRET, "use": "read"}})
    signature = writes.sign("x", "q", "now").plain()
    reads.verify("x", "q", signature)
    with pytest.raises(SignatureInvalid, match="does not have"):
        writes.verify("x", "q", signature)
    with pytest.raises(ImproperlyConfigured):
        reads.sign("x", "q", "now")


def test_an_expired_key_neither_signs_nor_verifies() -> None:
    clock = ManualClock(1000.0)
    ring = KeyRing({"old": {"secret": SECRET, "expires": 2000.0}, "new": SECRET + "2"}, clock)
    signature = ring.sign("x", "q", "now").plain()
    assert signature["key"] == "old"
    ring.verify("x", "q", signature)
    clock.advance(1000.0)
    assert ring.sign("x", "q", "now").key == "new"
    with pytest.raises(SignatureInvalid, match="expired"):
        ring.verify("x", "q", signature)


def test_a_key_that_does_not_sign_is_refused_as_a_signing_key() -> None:
    with pytest.raises(ImproperlyConfigured, match="does not sign"):
        KeyRing({"k": {"alg": "a256gcm", "key": ONE}})
    with pytest.raises(ImproperlyConfigured, match="does not encrypt"):
        Sealer({"k": PRIVATE})


# --- encrypted messages --------------------------------------------------------------------------------


def codec(keys: dict[str, Any] | None = None, **more: Any) -> Codec:
    return Codec(sealer=Sealer(keys if keys is not None else {"e1": ONE}), **more)


HIDDEN = Envelope(
    task="pay",
    id="T1",
    args=("4111 1111",),
    kwargs={"name": "Ann"},
    link=({"task": "mail", "args": ["Ann"]},),
)


def test_an_encrypted_message_tells_only_which_task_and_id() -> None:
    text = codec().encode(HIDDEN, "q")
    document = json.loads(text)
    assert set(document) == {"v", "id", "task", "encrypted"}
    assert set(document["encrypted"]) == {"alg", "key", "data"}
    assert "4111 1111" not in text
    assert "Ann" not in text
    found = codec().decode(text, "q", "M")
    assert (found.args, found.kwargs, found.link) == (HIDDEN.args, HIDDEN.kwargs, HIDDEN.link)


@given(
    args=st.lists(st.text() | st.integers() | st.none(), max_size=4), task=st.text(min_size=1, max_size=20)
)
def test_whatever_is_encrypted_comes_back(args: list[Any], task: str) -> None:
    both = codec(keys={"e1": ONE})
    envelope = Envelope(task=task, id="T", args=tuple(args))
    try:
        text = both.encode(envelope, "q")
    except Exception:
        with pytest.raises(Exception):  # noqa: B017  refused in clear as well
            Codec().encode(envelope, "q")
        return
    assert both.decode(text, "q", "M").args == tuple(args)


def changed(text: str, **changes: Any) -> str:
    document = json.loads(text)
    for name, value in changes.items():
        target = document["encrypted"] if name in document["encrypted"] else document
        target[name] = value
    return json.dumps(document)


def flipped(text: str) -> str:
    data = bytearray(base64.b64decode(json.loads(text)["encrypted"]["data"]))
    data[len(data) // 2] ^= 1
    return b64(bytes(data))


def test_an_encrypted_message_that_was_changed_is_refused_with_the_reason() -> None:
    text = codec().encode(HIDDEN, "q")
    cases = [
        (changed(text, task="give"), "changed since"),
        (changed(text, id="T2"), "changed since"),
        (changed(text, data=flipped(text)), "changed since"),
        (changed(text, data="AAAA"), "changed since"),
        (changed(text, key="e9"), "e9"),
        (changed(text, alg="rot13"), "rot13"),
        (changed(text, alg=7), "how it was encrypted"),
    ]
    for body, words in cases:
        with pytest.raises(DecryptionFailed, match=words):
            codec().decode(body, "q", "M")
    for body in (changed(text, data="?"), changed(text, data=7), changed(text, id=None)):
        with pytest.raises(DecodeError):
            codec().decode(body, "q", "M")
    with pytest.raises(DecryptionFailed, match="security_encryption_keys"):
        Codec().decode(text, "q", "M")
    with pytest.raises(DecryptionFailed, match="expired"):
        codec({"e1": {"key": ONE, "expires": 1}}).decode(text, "q", "M")


def test_a_new_key_writes_while_the_old_one_still_reads() -> None:
    old = codec({"e1": ONE}).encode(HIDDEN, "q")
    both = codec({"e2": TWO, "e1": {"key": ONE, "use": "read"}})
    assert both.decode(old, "q", "M").args == HIDDEN.args
    assert json.loads(both.encode(HIDDEN, "q"))["encrypted"]["key"] == "e2"


def test_an_encrypted_message_may_be_signed_and_swapping_queues_is_seen() -> None:
    both = Codec(keys={"k": SECRET}, sealer=Sealer({"e1": ONE}), security_required=True)
    text = both.encode(HIDDEN, "q")
    assert both.decode(text, "q", "M").args == HIDDEN.args
    with pytest.raises(SignatureInvalid, match="queue 'other'"):
        both.decode(text, "other", "M")


# --- KMS ---------------------------------------------------------------------------------------------


class FakeKms:
    """GenerateDataKey and Decrypt, counted."""

    region = "us-east-1"

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.error: Exception | None = None

    def call(self, call: Call) -> Any:
        self.calls.append(call.operation)
        if self.error is not None:
            raise self.error
        assert call.params["EncryptionContext"] == {"purpose": "cloudq"}
        if call.operation == "GenerateDataKey":
            secret = os.urandom(32)
            return {"Plaintext": secret, "CiphertextBlob": b"wrapped" + secret}
        return {"Plaintext": call.params["CiphertextBlob"].removeprefix(b"wrapped")}

    def close(self) -> None: ...


def test_a_kms_data_key_serves_many_messages_and_is_opened_once_per_reader() -> None:
    clock, kms = ManualClock(), FakeKms()
    writer = Codec(sealer=Sealer({"m": "kms:arn:aws:kms:x"}, KmsKeys(kms, clock), clock))
    texts = [writer.encode(HIDDEN, "q") for _ in range(50)]
    assert kms.calls == ["GenerateDataKey"]
    reader = Codec(sealer=Sealer({"m": "kms:arn:aws:kms:x"}, KmsKeys(kms, clock), clock))
    for text in texts:
        assert reader.decode(text, "q", "M").args == HIDDEN.args
    assert kms.calls == ["GenerateDataKey", "Decrypt"]
    clock.advance(LIFETIME + 1)
    writer.encode(HIDDEN, "q")
    reader.decode(texts[0], "q", "M")
    assert kms.calls == ["GenerateDataKey", "Decrypt", "GenerateDataKey", "Decrypt"]


def test_a_data_key_is_not_used_for_ever() -> None:
    keys = KmsKeys(FakeKms(), ManualClock())
    first, _ = keys.fresh("a")
    keys._current["a"][3] = USES
    assert keys.fresh("a")[0] != first


def test_kms_saying_no_to_a_key_buries_and_an_outage_does_not() -> None:
    kms = FakeKms()
    both = Codec(sealer=Sealer({"m": "kms:arn"}, KmsKeys(kms, ManualClock())))
    text = both.encode(HIDDEN, "q")
    kms.error = AwsError("InvalidCiphertextException", "no", service="kms", operation="Decrypt")
    with pytest.raises(DecryptionFailed, match="InvalidCiphertextException"):
        both.decode(text, "q", "M")
    kms.error = AccessDenied("kms Decrypt: no")
    with pytest.raises(AccessDenied):
        both.decode(text, "q", "M")


# --- the results store -----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["encrypted", "signed"])
def test_a_value_moved_to_another_key_is_refused_by_either_seal(how: str) -> None:
    inner = MemoryStore(ManualClock())
    seal: Any = {"sealer": Sealer({"e1": ONE})} if how == "encrypted" else {"ring": KeyRing({"k": SECRET})}
    store = SealedBackend(inner, **seal, required=True)
    store.write("task/a", b"mine")
    raw = inner.read("task/a")
    assert raw is not None
    inner.write("task/b", raw.value)
    with pytest.raises(CorruptRecord, match="task/b"):
        store.read("task/b")


def test_a_sealed_store_shows_nothing_and_refuses_what_was_moved_or_changed() -> None:
    clock = ManualClock()
    inner = MemoryStore(clock)
    store = SealedBackend(inner, sealer=Sealer({"e1": ONE}), ring=KeyRing({"k": PRIVATE}), clock=clock)
    store.write("task/a", b"the secret result")
    raw = inner.read("task/a")
    assert raw is not None
    assert b"secret result" not in raw.value
    inner.write("task/b", raw.value)
    with pytest.raises(CorruptRecord, match="task/b"):
        store.read("task/b")
    inner.write("task/a", raw.value[:-1] + bytes([raw.value[-1] ^ 1]))
    with pytest.raises(CorruptRecord, match="task/a"):
        store.read("task/a")
    inner.write("task/a", raw.value[:20])
    with pytest.raises(CorruptRecord, match="task/a"):
        store.read("task/a")


def test_values_in_clear_are_read_while_keys_are_introduced_and_refused_once_required() -> None:
    clock = ManualClock()
    inner = MemoryStore(clock)
    inner.write("task/a", b"plain")
    for more in ({"sealer": Sealer({"e1": ONE})}, {"ring": KeyRing({"k": SECRET})}):
        found = SealedBackend(inner, **more, clock=clock).read("task/a")  # type: ignore[arg-type]
        assert found is not None
        assert found.value == b"plain"
        with pytest.raises(CorruptRecord, match="is not (signed|encrypted)"):
            SealedBackend(inner, **more, required=True, clock=clock).read("task/a")  # type: ignore[arg-type]


def test_an_app_with_keys_runs_as_ever_and_its_store_and_queue_hold_nothing_readable(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    keyfile.new_key(path, "signing", 0.0, algorithm="ed25519")
    keyfile.new_key(path, "encryption", 0.0)
    app = CloudQ("safe")

    @app.task(bind=True, max_retries=2)
    def double(self: Any, text: str) -> str:
        if self.request.retries == 0:
            raise self.retry(countdown=1)
        return text * 2

    app.conf.update(security_key_file=str(path), security_sign_results=True, security_required=True)
    with sandbox(app) as box:
        result = double.delay("hush")
        [message] = app.broker.receive("cloudq", 1, 0.0, 0.0)
        assert "hush" not in message.body
        box.drain()
        assert result.get(timeout=1) == "hushhush"
        raw = app.backend._inner.read(f"task/{result.id}").value  # type: ignore[union-attr]
        assert b"hush" not in raw


def test_an_old_signed_message_that_is_sent_again_is_recognised() -> None:
    app = CloudQ("safe", security_keys={"k": SECRET}, security_required=True)
    ran: list[int] = []

    @app.task
    def note(x: int) -> None:
        ran.append(x)

    with sandbox(app) as box:
        note.delay(1)
        [message] = app.broker.receive("cloudq", 1, 0.0, 0.0)
        box.drain()
        from cloudq.brokers.base import Message

        app.broker.send("cloudq", [Message(message.body)])
        box.drain()
    assert ran == [1]


# --- the key file --------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "keys.json"  # noqa: PT022


def test_a_rotation_leaves_the_old_key_reading_until_it_expires(file: Path) -> None:
    first = keyfile.new_key(file, "signing", 0.0)
    before = KeyRing(read_key_file(file)["signing"], ManualClock(10.0))
    second, retired = keyfile.rotate(file, "signing", 100.0, overlap=50.0)
    assert retired == [first]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    clock = ManualClock(120.0)
    after = KeyRing(read_key_file(file)["signing"], clock)
    assert after.sign("x", "q", "now").key == second
    signature = before.sign("x", "q", "now").plain()
    after.verify("x", "q", signature)
    clock.advance(31.0)
    with pytest.raises(SignatureInvalid, match="expired"):
        after.verify("x", "q", signature)
    third, retired = keyfile.rotate(file, "signing", 200.0, overlap=50.0)
    assert retired == [second]
    assert [row.id for row in keyfile.listed(file, 200.0)] == [third, second]


def test_a_crash_while_writing_leaves_the_old_key_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keyfile.new_key(file, "signing", 0.0)
    before = file.read_text()

    def fails(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fails)
    with pytest.raises(OSError, match="disk full"):
        keyfile.rotate(file, "signing", 1.0)
    assert file.read_text() == before
    assert [each.name for each in file.parent.iterdir()] == [file.name]


ROTATIONS = """
import sys, time
from pathlib import Path
from cloudq.security import keyfile
name = keyfile._name
def slowly(*given):  # between reading and writing
    time.sleep(0.02)
    return name(*given)
keyfile._name = slowly
print("ready", flush=True)
sys.stdin.readline()
for _ in range(10):
    print(keyfile.rotate(Path(sys.argv[1]), "signing", 1.0)[0], flush=True)
"""


def test_of_two_processes_that_rotate_at_once_neither_loses_the_others_keys(file: Path) -> None:
    first = keyfile.new_key(file, "signing", 0.0)
    command = [sys.executable, "-c", ROTATIONS, str(file)]
    racers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for each in racers:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    for each in racers:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    made = [name for each in racers for name in each.communicate(timeout=60)[0].split()]
    assert [each.returncode for each in racers] == [0, 0]
    assert len(set(made)) == 20
    assert set(read_key_file(file)["signing"]) == {first, *made}
    writing = [row.id for row in keyfile.listed(file, 2.0) if row.use == "both"]
    assert writing in ([made[9]], [made[19]])
    assert [each.name for each in file.parent.iterdir()] == [file.name]


def test_a_rotation_through_a_link_changes_the_file_it_leads_to(file: Path, tmp_path: Path) -> None:
    keyfile.new_key(file, "signing", 0.0)
    link = tmp_path / "linked" / "keys.json"
    link.parent.mkdir()
    link.symlink_to(file)
    name, _ = keyfile.rotate(link, "signing", 1.0)
    assert link.is_symlink()
    assert next(iter(read_key_file(file)["signing"])) == name


def test_where_nothing_can_be_locked_no_key_is_changed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keyfile.new_key(file, "signing", 0.0)
    before = file.read_text()

    def refuses(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuses)
    with pytest.raises(ImproperlyConfigured, match="No locks available.*local disk"):
        keyfile.rotate(file, "signing", 1.0)
    assert file.read_text() == before


def test_keys_rotated_by_root_stay_their_owners(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keyfile.new_key(file, "signing", 0.0)
    owner = file.stat()
    given: list[tuple[int, int]] = []
    monkeypatch.setattr("os.geteuid", lambda: owner.st_uid + 1)
    monkeypatch.setattr("os.fchown", lambda _, user, group: given.append((user, group)))
    keyfile.rotate(file, "signing", 1.0)
    assert given == [(owner.st_uid, owner.st_gid)]


def test_kms_keys_are_rotated_by_kms(file: Path) -> None:
    keyfile.new_key(file, "encryption", 0.0, arn="arn:aws:kms:x")
    with pytest.raises(ImproperlyConfigured, match="KMS itself"):
        keyfile.rotate(file, "encryption", 1.0)


def run(*arguments: str) -> Any:
    return CliRunner().invoke(cli, list(arguments))


def test_the_keys_command_makes_lists_and_rotates_and_shows_no_secret(file: Path) -> None:
    for kind, alg in (("signing", "ed25519"), ("encryption", "a256gcm")):
        assert run("keys", "new", "-f", str(file), "--kind", kind, "--alg", alg).exit_code == 0
    assert "read for 14 more days" in run("keys", "rotate", "-f", str(file)).output
    listing = run("keys", "list", "-f", str(file), "--json")
    rows = json.loads(listing.output)
    assert [(row["kind"], row["algorithm"], row["current"]) for row in rows] == [
        ("signing", "ed25519", True),
        ("signing", "ed25519", False),
        ("encryption", "a256gcm", True),
    ]
    found = read_key_file(file)
    secrets = [parts.get("private") or parts.get("key") for keys in found.values() for parts in keys.values()]
    for secret in secrets:
        assert secret not in listing.output
    shared = json.loads(run("keys", "list", "-f", str(file), "--public").output)
    names = list(found["signing"])
    reader = KeyRing(shared["signing"])
    reader.verify("x", "q", KeyRing(found["signing"]).sign("x", "q", "now").plain())
    assert list(shared["signing"]) == names
    assert not any(secret in json.dumps(shared) for secret in secrets)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["new", "--kind", "other"], "signing or encryption"),
        (["new", "--alg", "a256gcm"], "hs256 or ed25519"),
        (["new", "--kind", "encryption", "--alg", "kms"], "--arn"),
        (["list"], "cannot be read"),
    ],
)
def test_the_keys_command_says_what_is_wrong(file: Path, arguments: list[str], words: str) -> None:
    done = run("keys", *arguments, "-f", str(file))
    assert done.exit_code != 0
    assert words in " ".join((done.output + str(done.exception)).split())


def test_a_key_file_that_others_may_read_is_refused(file: Path) -> None:
    keyfile.new_key(file, "signing", 0.0)
    file.chmod(0o644)
    with pytest.raises(ImproperlyConfigured, match="chmod 600"):
        read_key_file(file)
    file.chmod(0o600)
    file.write_text("[]")
    with pytest.raises(ImproperlyConfigured, match="signing and encryption"):
        read_key_file(file)


# --- exceptions in results ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "module", "rebuilt"),
    [
        ({}, "msgspec", True),
        ({"security_required": True, "security_keys": {"k": SECRET}}, "msgspec", False),
        ({"security_required": True, "security_keys": {"k": SECRET}}, "json.decoder", True),
        ({"security_required": True, "security_keys": {"k": SECRET}}, "cloudq.errors", True),
        ({"security_required": True, "security_keys": {"k": SECRET}}, __name__, True),
        ({"result_exceptions": ["json"]}, "msgspec", False),
        ({"result_exceptions": ["json", "msgspec"], "security_required": True, "security_keys": {"k": SECRET}}, "msgspec", True),
    ],
)  # fmt: skip
def test_where_messages_are_signed_exceptions_are_rebuilt_from_an_allow_list(
    settings: dict[str, Any], module: str, rebuilt: bool
) -> None:
    import msgspec

    from cloudq.errors import RemoteError

    errors: dict[str, Exception] = {
        "msgspec": msgspec.DecodeError("x"),
        "json.decoder": json.JSONDecodeError("m", "d", 0),
        "cloudq.errors": DecodeError("x"),
        __name__: OurError("x"),
    }
    app = CloudQ("safe", broker="memory://", backend="memory://", **settings)

    @app.task(name="fail")
    def fail() -> None:
        raise errors[module]

    with sandbox(app) as box:
        result = fail.delay()
        box.drain()
        found = app.AsyncResult(result.id).result
    assert isinstance(found, type(errors[module])) == rebuilt
    assert isinstance(found, RemoteError) != rebuilt


class OurError(Exception):
    """Of a module that tasks are declared in."""


# --- what people may see -------------------------------------------------------------------------------------


def shown_of(app: CloudQ, name: str, *args: Any, **kwargs: Any) -> tuple[str, str]:
    from cloudq.control.shown import shown_call

    return shown_call(app.tasks.get(name), args, kwargs)


def test_sensitive_parameters_are_hidden_however_they_are_given() -> None:
    app = CloudQ("safe")

    @app.task(name="pay", sensitive=("card", "pins"), bind=True)
    def pay(self: Any, amount: int, card: str, *pins: int, note: str = "") -> None: ...

    @app.task(name="all", sensitive=True)
    def everything(x: int) -> int:
        return x

    @app.task(name="plain")
    def plain(card: str) -> None: ...

    assert shown_of(app, "pay", 5, "4111", 1, 2) == ("[5, '***', '***', '***']", "{}")
    assert shown_of(app, "pay", 5, card="4111", note="hi") == ("[5]", "{'card': '***', 'note': 'hi'}")
    assert shown_of(app, "all", 5, x=6) == ("***", "***")
    assert shown_of(app, "plain", "4111") == ("['4111']", "{}")
    assert shown_of(app, "unknown", 1) == ("[1]", "{}")


def test_sensitive_names_parameters_that_exist() -> None:
    app = CloudQ("safe")
    with pytest.raises(ImproperlyConfigured, match="sensitive names 'crad'"):

        @app.task(sensitive="crad")
        def pay(card: str) -> None: ...


def test_events_do_not_tell_what_is_sensitive() -> None:
    from cloudq.monitoring.events import Recorder

    app = CloudQ("safe")
    told: list[Any] = []

    @app.task(sensitive="card")
    def pay(card: str) -> str:
        return "paid"

    @app.task(sensitive=True)
    def whisper(text: str) -> str:
        return text

    with sandbox(app) as box:
        Recorder(app.hooks, told.append, "w1", box.clock, (), app.tasks.get).attach()
        pay.delay("my card")
        whisper.delay(text="hush")
        box.drain()
    assert {each["type"] for each in told} >= {"task-sent", "task-succeeded"}
    assert "my card" not in str(told)
    assert "hush" not in str(told)
    assert "paid" in str(told)
