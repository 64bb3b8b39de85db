"""Two stores as one: every place to die, every race, and nothing lost."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from aws_fakes import FrozenClock

from cloudq.backends.base import ABSENT, ALWAYS, Condition, Entry, Matches, ResultBackend, Version
from cloudq.backends.tiered import BLOB_MARGIN, TieredBackend, unwrap, wrap
from cloudq.errors import Conflict, CorruptRecord, ServiceUnavailable
from cloudq.testing.stores import Counting, Crashing, MemoryStore, SimulatedCrash, Wrapper, at_step

BIG, BIGGER, SMALL = b"b" * 100, b"c" * 200, b"small"
LIMIT = 50


class Stores:
    def __init__(self) -> None:
        self.clock = FrozenClock()
        self.small = MemoryStore(self.clock, conflict_has_entry=True)
        self.large = MemoryStore(self.clock)
        self.tiered = TieredBackend(self.small, self.large, large_over=LIMIT)

    def blobs(self) -> set[str]:
        return {key for folder in self.large._folders.values() for key in folder}

    def value(self, key: str = "task/1") -> bytes | None:
        entry = self.tiered.read(key)
        return None if entry is None else entry.value


@pytest.fixture
def stores() -> Stores:
    return Stores()


def test_a_value_up_to_the_threshold_lies_in_the_first_store_as_it_is(stores: Stores) -> None:
    stores.tiered.write("task/1", b"x" * LIMIT)
    entry = stores.small.read("task/1")
    assert entry is not None
    assert entry.value == b"x" * LIMIT
    assert not stores.blobs()


def test_a_large_value_leaves_a_pointer_that_says_where_how_long_and_which(stores: Stores) -> None:
    stores.tiered.write("task/1", BIG, expires_at=stores.clock.now + 10)
    entry = stores.small.read("task/1")
    assert entry is not None
    assert b'"uri":"memory://"' in entry.value
    assert b'"size":100' in entry.value
    assert b'"sha256":"' in entry.value
    (blob,) = stores.blobs()
    kept = stores.large.read(blob)
    assert kept is not None
    assert kept.expires_at == stores.clock.now + 10 + BLOB_MARGIN


@pytest.mark.parametrize("first", [SMALL, BIG])
@pytest.mark.parametrize("second", [SMALL, BIGGER, None])
@pytest.mark.parametrize("conditional", [True, False])
def test_replacing_or_deleting_removes_the_old_blob_and_no_other(
    stores: Stores, first: bytes, second: bytes | None, conditional: bool
) -> None:
    version = stores.tiered.write("task/1", first, ABSENT)
    when: Condition = Matches(version) if conditional else ALWAYS
    if second is None:
        stores.tiered.delete("task/1", when)
    else:
        stores.tiered.write("task/1", second, when)
    assert stores.value() == second
    assert len(stores.blobs()) == (second == BIGGER)


@pytest.mark.parametrize("value", [SMALL, BIG])
def test_the_version_read_is_the_version_written(stores: Stores, value: bytes) -> None:
    version = stores.tiered.write("task/1", value)
    entry = stores.tiered.read("task/1")
    assert entry is not None
    assert entry.version == version
    assert stores.tiered.read_many(["task/1", "no/1"]) == {"task/1": entry}


def test_a_lost_race_takes_its_own_blob_back_and_shows_the_winners_value(stores: Stores) -> None:
    stores.tiered.write("task/1", BIG)
    before = stores.blobs()
    with pytest.raises(Conflict) as error:
        stores.tiered.write("task/1", BIGGER, ABSENT)
    assert error.value.present.value == BIG
    assert stores.blobs() == before


def acts() -> dict[str, Callable[[ResultBackend, Version], object]]:
    return {
        "write absent": lambda store, _: store.write("task/2", BIGGER, ABSENT),
        "overwrite": lambda store, _: store.write("task/1", BIGGER),
        "overwrite the version": lambda store, version: store.write("task/1", BIGGER, Matches(version)),
        "overwrite with a small one": lambda store, version: store.write("task/1", SMALL, Matches(version)),
        "delete": lambda store, _: store.delete("task/1"),
        "delete the version": lambda store, version: store.delete("task/1", Matches(version)),
    }


@pytest.mark.parametrize("act", acts())
def test_a_crash_at_any_step_leaves_the_old_record_or_the_new_one_readable(act: str) -> None:
    for step in itertools.count(1):
        stores = Stores()
        version = stores.tiered.write("task/1", BIG)
        dies = at_step(step)
        crashing = TieredBackend(Crashing(stores.small, dies), Crashing(stores.large, dies), large_over=LIMIT)
        try:
            acts()[act](crashing, version)
        except SimulatedCrash:
            pass
        else:
            assert step > 4
            break
        assert stores.value() in (BIG, BIGGER, SMALL, None)  # never a pointer to nothing
        if not act.startswith("delete"):
            assert stores.value("task/1") is not None
        # Done once more, as a redelivery does it, the work ends as if nothing had happened.
        again = stores.tiered.read("task/2" if act == "write absent" else "task/1")
        if again is not None and again.value == BIG:
            acts()[act](stores.tiered, again.version)
            assert stores.value() in (BIG, BIGGER, SMALL, None)
        assert len(stores.blobs()) <= 3


class Remembering(Wrapper):
    """Loses the reply of its first conditional write inside, tries again, and meets itself."""

    writes = 0

    def write(
        self, key: str, value: bytes, when: Condition = ALWAYS, expires_at: float | None = None
    ) -> Version:
        self.writes += 1
        if self.writes == 1:
            self.inner.write(key, value, when, expires_at)
        return self.inner.write(key, value, when, expires_at)


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize("when", ["absent", "matches", "always"])
def test_a_first_store_that_meets_its_own_write_does_not_cost_the_blob(tells: bool, when: str) -> None:
    stores = Stores()
    stores.small._tells = tells
    version = stores.tiered.write("task/1", BIG)
    tiered = TieredBackend(Remembering(stores.small), stores.large, large_over=LIMIT)
    if when == "absent":
        tiered.write("task/2", BIGGER, ABSENT)
        assert stores.value("task/2") == BIGGER
    else:
        tiered.write("task/1", BIGGER, Matches(version) if when == "matches" else ALWAYS)
        assert stores.value() == BIGGER


class LosesReplies(Wrapper):
    def after(self, verb: str, key: str) -> None:
        if verb == "write":
            raise ServiceUnavailable("the reply was lost")


def test_after_a_lost_reply_the_blob_stays_as_the_pointer_may_be_there(stores: Stores) -> None:
    tiered = TieredBackend(LosesReplies(stores.small), stores.large, large_over=LIMIT)
    with pytest.raises(ServiceUnavailable):
        tiered.write("task/1", BIG, ABSENT)
    assert stores.value() == BIG


class Replaces(Wrapper):
    """Somebody replaces the record between the reading of the pointer and of the blob."""

    def __init__(self, store: ResultBackend, act: Callable[[], object]) -> None:
        super().__init__(store)
        self.act: Callable[[], object] | None = act

    def before(self, verb: str, key: str) -> None:
        if self.act is not None and verb in ("read", "read_many"):
            act, self.act = self.act, None
            act()


@pytest.mark.parametrize("many", [True, False])
@pytest.mark.parametrize("replacement", [SMALL, BIGGER, None])
def test_a_reader_whose_blob_is_replaced_under_its_hands_looks_again(
    stores: Stores, replacement: bytes | None, many: bool
) -> None:
    stores.tiered.write("task/1", BIG)

    def act() -> None:
        if replacement is None:
            stores.tiered.delete("task/1")
        else:
            stores.tiered.write("task/1", replacement)

    tiered = TieredBackend(stores.small, Replaces(stores.large, act), large_over=LIMIT)
    entry: Entry | None
    entry = tiered.read_many(["task/1"]).get("task/1") if many else tiered.read("task/1")
    assert (None if entry is None else entry.value) == replacement


def test_a_missing_blob_is_an_error_that_names_both_stores_and_no_empty_result(stores: Stores) -> None:
    stores.tiered.write("task/1", BIG)
    stores.large._folders.clear()
    with pytest.raises(
        CorruptRecord, match=r"'task/1' in memory://: its large value .* is missing in memory://"
    ):
        stores.tiered.read("task/1")


def test_a_blob_that_is_not_what_was_written_is_noticed(stores: Stores) -> None:
    stores.tiered.write("task/1", BIG)
    (blob,) = stores.blobs()
    stores.large.write(blob, b"x" * len(BIG))
    with pytest.raises(CorruptRecord, match="not what was written"):
        stores.tiered.read("task/1")


@pytest.mark.parametrize("value", [b"", b"{}", b"\x00cloudq-pointer\x01{}", b"\x00cloudq-value\x01x"])
def test_no_value_can_pass_for_a_pointer(stores: Stores, value: bytes) -> None:
    assert unwrap(wrap(value), "here") == value
    stores.tiered.write("task/1", value)
    assert stores.value() == value


def test_a_pointer_that_cannot_be_read_is_named_and_may_be_overwritten(stores: Stores) -> None:
    stores.small.write("task/1", b"\x00cloudq-pointer\x01{}")
    with pytest.raises(CorruptRecord, match="'task/1' in memory://: the pointer"):
        stores.tiered.read("task/1")
    stores.tiered.write("task/1", SMALL)
    assert stores.value() == SMALL


def test_a_conditional_write_reads_nothing_beforehand(stores: Stores) -> None:
    counting = Counting(stores.small)
    tiered = TieredBackend(counting, stores.large, large_over=LIMIT)
    version = tiered.write("task/1", BIG, ABSENT)
    tiered.write("task/1", BIGGER, Matches(version))
    assert counting.calls == {"write": 2}


def test_trouble_at_cleaning_up_does_not_fail_what_was_done(
    stores: Stores, caplog: pytest.LogCaptureFixture
) -> None:
    class NoDelete(Wrapper):
        def before(self, verb: str, key: str) -> None:
            if verb == "delete":
                raise ServiceUnavailable("down")

    tiered = TieredBackend(stores.small, NoDelete(stores.large), large_over=LIMIT)
    tiered.write("task/1", BIG)
    tiered.write("task/1", SMALL)
    assert stores.value() == SMALL
    assert "stays until it expires" in caplog.text


def test_the_threshold_is_never_above_what_the_first_store_takes(stores: Stores) -> None:
    assert stores.tiered.capabilities.max_value is None
    assert TieredBackend(stores.small, stores.large).capabilities.conflict_has_entry
