"""What every results store must do."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from cloudq.backends.base import ABSENT, ALWAYS, MAX_KEY_BYTES, Matches, Version
from cloudq.errors import Conflict, ServiceUnavailable, ValueTooLarge


class BackendContract:
    """Give a fixture ``backend`` and, on a manual clock, ``now`` and ``advance``.

    What an emulator or a service does otherwise is said by the class attributes below.
    """

    #: ``delete(when=Matches)`` is honoured (one emulator ignores it).
    conditional_delete = True
    #: keys() leaves out expired entries; object stores may still list them.
    keys_hide_expired = True
    #: Keys of the test that lists many (object store emulators are slow).
    many = 1100
    #: Writers of the race; writes per key may be limited.
    racers = 5
    #: Threads that write one absent key at the same moment.
    absent_racers = 50
    increments = 10

    @pytest.fixture
    def now(self) -> Callable[[], float]:
        """The store's idea of the time, seconds since the epoch."""
        return time.time

    @pytest.fixture
    def advance(self) -> Callable[[float], None]:
        """Let time pass."""
        return time.sleep

    @pytest.fixture
    def key(self) -> Callable[[str], str]:
        """Makes keys nobody else uses."""
        unique = uuid.uuid4().hex[:10]
        return lambda name: f"t/{unique}/{name}"

    # --- reading and writing ------------------------------------------------------------------

    def test_what_is_written_is_read(self, backend: Any, key: Callable[[str], str]) -> None:
        version = backend.write(key("a"), b"value \x00\xff")

        entry = backend.read(key("a"))

        assert (entry.value, entry.version, entry.expires_at) == (b"value \x00\xff", version, None)

    def test_nothing_is_read_where_nothing_is(self, backend: Any, key: Callable[[str], str]) -> None:
        assert backend.read(key("none")) is None

    def test_an_empty_value_is_a_value(self, backend: Any, key: Callable[[str], str]) -> None:
        backend.write(key("empty"), b"")

        assert backend.read(key("empty")).value == b""

    def test_always_overwrites(self, backend: Any, key: Callable[[str], str]) -> None:
        backend.write(key("a"), b"1")
        backend.write(key("a"), b"2", ALWAYS)

        assert backend.read(key("a")).value == b"2"

    def test_every_write_makes_a_new_version(self, backend: Any, key: Callable[[str], str]) -> None:
        """The same bytes again are another version, or a stale condition would pass (ABA)."""
        first = backend.write(key("a"), b"same")
        backend.write(key("a"), b"other")
        third = backend.write(key("a"), b"same")

        assert first != third
        with pytest.raises(Conflict):
            backend.write(key("a"), b"x", Matches(first))

    def test_read_many_gives_what_there_is(self, backend: Any, key: Callable[[str], str]) -> None:
        for n in range(0, 30, 2):
            backend.write(key(f"k{n}"), str(n).encode())

        found = backend.read_many([key(f"k{n}") for n in range(30)])

        assert {k: e.value for k, e in found.items()} == {
            key(f"k{n}"): str(n).encode() for n in range(0, 30, 2)
        }
        assert found[key("k0")] == backend.read(key("k0"))

    def test_read_many_of_more_than_one_batch(self, backend: Any, key: Callable[[str], str]) -> None:
        for n in range(130):
            backend.write(key(f"k{n}"), b"x")

        assert len(backend.read_many(key(f"k{n}") for n in range(140))) == 130

    def test_read_many_of_nothing_and_of_doubles(self, backend: Any, key: Callable[[str], str]) -> None:
        backend.write(key("a"), b"1")

        assert backend.read_many([]) == {}
        assert list(backend.read_many([key("a"), key("a")])) == [key("a")]

    # --- conditions ---------------------------------------------------------------------------

    def test_absent_writes_once(self, backend: Any, key: Callable[[str], str]) -> None:
        backend.write(key("a"), b"first", ABSENT)
        with pytest.raises(Conflict) as caught:
            backend.write(key("a"), b"second", ABSENT)

        assert backend.read(key("a")).value == b"first"
        if backend.capabilities.conflict_has_entry:
            assert caught.value.present == backend.read(key("a"))

    def test_matches_writes_over_that_version_only(self, backend: Any, key: Callable[[str], str]) -> None:
        first = backend.write(key("a"), b"1")
        second = backend.write(key("a"), b"2", Matches(first))
        with pytest.raises(Conflict):
            backend.write(key("a"), b"3", Matches(first))

        assert backend.read(key("a")).version == second

    def test_matches_where_nothing_is_conflicts(self, backend: Any, key: Callable[[str], str]) -> None:
        version = backend.write(key("a"), b"1")
        backend.delete(key("a"))

        with pytest.raises(Conflict):
            backend.write(key("a"), b"2", Matches(version))
        assert backend.read(key("a")) is None

    def test_a_conflict_shows_what_is_there(
        self,
        backend: Any,
        key: Callable[[str], str],
        now: Callable[[], float],
        advance: Callable[[float], None],
    ) -> None:
        if not backend.capabilities.conflict_has_entry:
            pytest.skip("this store's conflicts do not say what is there")
        first = backend.write(key("a"), b"1")
        backend.write(key("a"), b"2", expires_at=now() + 1.0)
        with pytest.raises(Conflict) as caught:
            backend.write(key("a"), b"3", Matches(first))
        assert caught.value.present == backend.read(key("a"))

        advance(1.3)

        with pytest.raises(Conflict) as caught:
            backend.write(key("a"), b"3", Matches(first))
        assert caught.value.present is None  # what has expired is not there

    def test_one_of_many_racers_writes_what_is_absent(self, backend: Any, key: Callable[[str], str]) -> None:
        winners: list[int] = []

        def race(n: int) -> None:
            try:
                backend.write(key("once"), str(n).encode(), ABSENT)
                winners.append(n)
            except Conflict:
                pass

        _together(race, self.absent_racers)
        assert len(winners) == 1
        assert backend.read(key("once")).value == str(winners[0]).encode()

    def test_racing_increments_are_not_lost(self, backend: Any, key: Callable[[str], str]) -> None:
        backend.write(key("n"), b"0")

        def increment(_: int) -> None:
            done = 0
            while done < self.increments:
                entry = backend.read(key("n"))
                try:
                    backend.write(key("n"), str(int(entry.value) + 1).encode(), Matches(entry.version))
                    done += 1
                except (Conflict, ServiceUnavailable):
                    pass

        _together(increment, self.racers)
        assert backend.read(key("n")).value == str(self.racers * self.increments).encode()

    # --- deleting -----------------------------------------------------------------------------

    def test_a_deleted_entry_is_gone(self, backend: Any, key: Callable[[str], str]) -> None:
        backend.write(key("a"), b"1")
        backend.delete(key("a"))
        backend.delete(key("a"))

        assert backend.read(key("a")) is None
        backend.write(key("a"), b"2", ABSENT)

    def test_delete_with_a_condition(self, backend: Any, key: Callable[[str], str]) -> None:
        if not self.conditional_delete:
            pytest.skip("this emulator ignores conditions on deletes")
        first = backend.write(key("a"), b"1")
        second = backend.write(key("a"), b"2")
        with pytest.raises(Conflict):
            backend.delete(key("a"), Matches(first))
        backend.delete(key("a"), Matches(second))
        with pytest.raises(Conflict):
            backend.delete(key("a"), Matches(second))

        assert backend.read(key("a")) is None

    def test_delete_if_absent_makes_no_sense(self, backend: Any, key: Callable[[str], str]) -> None:
        with pytest.raises(ValueError, match="ABSENT"):
            backend.delete(key("a"), ABSENT)

    # --- expiry -------------------------------------------------------------------------------

    def test_an_expired_entry_counts_as_absent(
        self,
        backend: Any,
        key: Callable[[str], str],
        now: Callable[[], float],
        advance: Callable[[float], None],
    ) -> None:
        version = backend.write(key("a"), b"1", expires_at=now() + 1.0)
        assert backend.read(key("a")).expires_at == pytest.approx(now() + 1.0, abs=1.0)

        advance(1.3)

        assert backend.read(key("a")) is None
        assert backend.read_many([key("a")]) == {}
        with pytest.raises(Conflict):
            backend.write(key("a"), b"2", Matches(version))
        backend.write(key("a"), b"3", ABSENT)
        assert backend.read(key("a")).value == b"3"

    def test_an_expired_entry_is_deleted_as_an_absent_one(
        self,
        backend: Any,
        key: Callable[[str], str],
        now: Callable[[], float],
        advance: Callable[[float], None],
    ) -> None:
        version = backend.write(key("a"), b"1", expires_at=now() + 0.5)
        advance(1.2)

        if self.conditional_delete:
            with pytest.raises(Conflict):
                backend.delete(key("a"), Matches(version))
        backend.delete(key("a"))

        assert backend.read(key("a")) is None

    def test_an_expired_entry_is_taken_over_by_one(
        self,
        backend: Any,
        key: Callable[[str], str],
        now: Callable[[], float],
        advance: Callable[[float], None],
    ) -> None:
        backend.write(key("lease"), b"old", expires_at=now() + 0.5)
        advance(1.2)
        winners: list[int] = []

        def take(n: int) -> None:
            try:
                backend.write(key("lease"), str(n).encode(), ABSENT)
                winners.append(n)
            except Conflict:
                pass

        _together(take, 6)
        assert len(winners) == 1

    def test_a_write_without_expiry_takes_the_expiry_away(
        self,
        backend: Any,
        key: Callable[[str], str],
        now: Callable[[], float],
        advance: Callable[[float], None],
    ) -> None:
        backend.write(key("a"), b"1", expires_at=now() + 0.5)
        backend.write(key("a"), b"2")
        advance(1.0)

        assert backend.read(key("a")).value == b"2"

    # --- keys ---------------------------------------------------------------------------------

    def test_keys_lists_one_folder_in_order(self, backend: Any, key: Callable[[str], str]) -> None:
        for name in ("f/b", "f/a", "f/c", "g/x", "f/deep/er", "fa"):
            backend.write(key(name), b"")

        assert list(backend.keys(key("f") + "/")) == [key("f/a"), key("f/b"), key("f/c")]

    def test_keys_of_an_empty_folder(self, backend: Any, key: Callable[[str], str]) -> None:
        assert list(backend.keys(key("nothing") + "/")) == []

    def test_keys_sees_a_write_at_once(self, backend: Any, key: Callable[[str], str]) -> None:
        for n in range(10):
            backend.write(key(f"s/{n}"), b"")
            assert len(list(backend.keys(key("s") + "/"))) == n + 1

    def test_keys_hides_expired_entries(
        self,
        backend: Any,
        key: Callable[[str], str],
        now: Callable[[], float],
        advance: Callable[[float], None],
    ) -> None:
        if not self.keys_hide_expired:
            pytest.skip("this store may still list expired keys; reading them gives nothing")
        backend.write(key("e/old"), b"", expires_at=now() + 0.5)
        backend.write(key("e/new"), b"")
        advance(1.2)

        assert list(backend.keys(key("e") + "/")) == [key("e/new")]

    @pytest.mark.slow
    def test_keys_pages_through_many(self, backend: Any, key: Callable[[str], str]) -> None:
        for n in range(self.many):
            backend.write(key(f"m/{n:05d}"), b"")

        assert list(backend.keys(key("m") + "/")) == [key(f"m/{n:05d}") for n in range(self.many)]

    @pytest.mark.parametrize(
        "name",
        [
            "with space",
            "per%cent",
            "pl+us",
            "ha#sh",
            "que?stion",
            "ümläut-𝄞",
            "a.b",
            "..c",
            "c..",
            "~",
            "a=b&c",
            "Q\"'`",
            "<x>",
            "100%25",
        ],
    )
    def test_awkward_keys(self, backend: Any, key: Callable[[str], str], name: str) -> None:
        backend.write(key(f"w/{name}"), name.encode(), ABSENT)

        assert backend.read(key(f"w/{name}")).value == name.encode()
        assert list(backend.keys(key("w") + "/")) == [key(f"w/{name}")]

    def test_keys_that_differ_in_case_are_two(self, backend: Any, key: Callable[[str], str]) -> None:
        backend.write(key("case"), b"1")

        assert backend.read(key("CASE")) is None

    def test_the_longest_key(self, backend: Any, key: Callable[[str], str]) -> None:
        long = key("x" * (MAX_KEY_BYTES - len(key(""))))
        backend.write(long, b"1")

        assert backend.read(long).value == b"1"

    def test_the_longest_key_of_several_bytes_a_character(
        self, backend: Any, key: Callable[[str], str]
    ) -> None:
        room = MAX_KEY_BYTES - len(key("u/"))
        long = key("u/" + "ü" * (room // 2))
        backend.write(long, b"1", ABSENT)

        assert backend.read(long).value == b"1"
        assert list(backend.keys(key("u") + "/")) == [long]

    @pytest.mark.parametrize("bad", ["", "a//b", "/a", "a/", "a/../b", ".", "x" * (MAX_KEY_BYTES + 1)])
    def test_bad_keys_are_refused(self, backend: Any, bad: str) -> None:
        with pytest.raises(ValueError):
            backend.write(bad, b"")
        with pytest.raises(ValueError):
            backend.read(bad)
        with pytest.raises(ValueError):
            backend.delete(bad)
        with pytest.raises(ValueError):
            backend.read_many(["good", bad])
        with pytest.raises(ValueError):
            list(backend.keys(f"{bad}/"))

    def test_a_folder_ends_with_a_slash(self, backend: Any) -> None:
        with pytest.raises(ValueError, match="/"):
            list(backend.keys("folder"))

    # --- limits -------------------------------------------------------------------------------

    def test_a_large_value(self, backend: Any, key: Callable[[str], str]) -> None:
        size = min(backend.capabilities.max_value or 2_000_000, 2_000_000)
        backend.write(key("large"), b"v" * size)

        assert len(backend.read(key("large")).value) == size

    def test_a_value_over_the_limit_is_refused(self, backend: Any, key: Callable[[str], str]) -> None:
        limit = backend.capabilities.max_value
        if limit is None or limit > 10_000_000:
            pytest.skip("this store has no limit worth a test")
        with pytest.raises(ValueTooLarge):
            backend.write(key("huge"), b"v" * (limit + 1))

    def test_an_unknown_version_matches_nothing(self, backend: Any, key: Callable[[str], str]) -> None:
        backend.write(key("a"), b"1")

        with pytest.raises(Conflict):
            backend.write(key("a"), b"2", Matches(Version("12345")))

    def test_the_url_shows_no_secret(self, backend: Any) -> None:
        assert "://" in backend.url
        assert "AccountKey" not in backend.url

    def test_close_may_be_called_twice(self, backend: Any) -> None:
        backend.close()
        backend.close()


def _together(do: Callable[[int], None], count: int) -> None:
    """Run ``do(0..count-1)`` in as many threads, started at one moment; errors are raised here."""
    gate = threading.Barrier(count)
    errors: list[BaseException] = []

    def run(n: int) -> None:
        gate.wait()
        try:
            do(n)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(count)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    if errors:
        raise errors[0]
