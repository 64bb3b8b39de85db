"""One tick: send what is due, each slot once.

For each slot: claim it, send the task under an id derived from entry and slot, record that it is
sent; the marks move on afterwards. Dying between any two of these is made up for by the next tick,
here or elsewhere: an unfinished claim runs out and is taken over, and the task is then sent once
more *under the same id*, which whoever receives it second recognises by its record (decision 7).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from cloudq import states
from cloudq.app import CloudQ
from cloudq.beat.book import Book, Listed
from cloudq.beat.marks import Mark, Marks
from cloudq.beat.names import identity, key_of, store_of
from cloudq.coordination import cas
from cloudq.coordination.once import Claimed, Done, Once, Token
from cloudq.delays.hop import HOPS
from cloudq.deploy.expressible import refusal
from cloudq.errors import CloudQError, ImproperlyConfigured, OperationalError, ScheduleError
from cloudq.ids import derived_id
from cloudq.message import NAME_HEADER
from cloudq.moments import zone_of
from cloudq.periodic import SLOT_HEADER
from cloudq.schedules.entry import Due, Entry, slot_text

logger = logging.getLogger("cloudq.beat")

#: Seconds for which it is known that a slot was sent.
REMEMBERED: Final = 7 * 86_400.0
#: Seconds after which a run that never ended no longer counts as running, where results are kept for ever.
LOST_AFTER: Final = 86_400.0
#: Entries whose runs are sent at the same time.
SENDERS: Final = 8


@dataclass(frozen=True, slots=True)
class Sent:
    """A run that was sent."""

    name: str
    slot: float
    task_id: str


@dataclass(slots=True)
class Ticked:
    """What a tick did, and when the next one has something to do (epoch seconds, None: unknown)."""

    sent: list[Sent] = field(default_factory=list)
    wake: float | None = None

    def wake_at(self, moment: float | None) -> None:
        """Wake no later than this."""
        if moment is not None:
            self.wake = moment if self.wake is None else min(self.wake, moment)


@dataclass(slots=True)
class _Run:
    """What is due of one entry, and what has become of it."""

    entry: Entry
    due: Due
    mark: Mark
    sent: list[Sent] = field(default_factory=list)
    wake: float | None = None
    moved: bool = False

    def pass_by(self, slot: float) -> None:
        """The slot is dealt with, whether it was sent or left out."""
        sent = self.sent[-1].slot if self.sent else self.mark.sent
        self.mark, self.moved = Mark(slot, sent), True


def tick_id(app_name: str, name: str, slot: float) -> str:
    """The task id of an entry's slot: the same whoever sends it, and however often."""
    return derived_id("tick", app_name, name, slot_text(slot))


class Ticker:
    """Ticks for one app. ``owner`` tells apart those that tick at the same time."""

    def __init__(self, app: CloudQ, *, claim_seconds: float | None = None) -> None:
        self._app = app
        self._clock = app.clock
        self._zone = zone_of(app.conf)
        self._book = Book(app)
        self._marks = Marks(app)
        self._once = Once(store_of(app), app.clock, prefix=key_of(app, "once"))
        self._owner = cas.nonce()
        self._loaded = False
        self._claim_seconds = claim_seconds or app.conf.beat_lease
        #: Slots that were claimed here and perhaps sent already.
        self._tried: set[tuple[str, float]] = set()
        self._nexts: dict[str, tuple[Entry, float, float | None]] = {}
        self._complaints: dict[str, str] = {}
        self._left: dict[str, tuple[Entry, bool]] = {}

    def forget(self) -> None:
        """Others may have ticked since: the next tick begins by learning how far they came."""
        self._loaded = False

    def tick(self, may_go_on: Callable[[], bool] = lambda: True) -> Ticked:
        """Send what is due now. ``may_go_on`` is asked before each send.

        Raises OperationalError when the store cannot be read or written. What cannot be sent for
        now is logged and tried again by the next tick.
        """
        listed = self._book.read()
        if not self._loaded:  # a tick without marks would take every entry for a new one
            self._marks.load()
            self._loaded = True
        report, changes = Ticked(), dict[str, Mark]()
        runs: list[_Run] = []
        for each in listed.values():
            if each.fault:
                self._complain(each.entry.name, each.fault)
            elif not each.paused and not self._left_to_eventbridge(each.entry):
                runs.extend(self._due(each, report, changes))
        for run in self._send_all(runs, may_go_on):
            report.sent.extend(run.sent)
            report.wake_at(run.wake)
            if run.moved:
                changes[run.entry.name] = run.mark
        self._marks.advance(changes, listed)
        return report

    def _due(self, each: Listed, report: Ticked, changes: dict[str, Mark]) -> Iterator[_Run]:
        """The entry's runs, if any are due."""
        entry, now = each.entry, self._clock.time()
        mark = self._marks.get(entry.name)
        if mark is None:  # never seen: it begins now, or when it was added
            mark = changes[entry.name] = Mark(now if each.since is None else each.since)
        last = mark.last if each.since is None else max(mark.last, each.since)
        try:
            following = self._next(entry, last)
            if following is None or following > now:
                report.wake_at(following)
                return
            due = entry.due(last, now, self._zone, self._app.conf.beat_catchup_limit)
        except CloudQError as error:  # astral is not installed, say: the other entries go on
            self._complain(entry.name, str(error))
            return
        if due.dropped:
            logger.warning(
                "periodic task %s: runs that were missed are left out (catchup=%r)", entry.name, entry.catchup
            )
        yield _Run(entry, due, mark)

    def _send_all(self, runs: list[_Run], may_go_on: Callable[[], bool]) -> list[_Run]:
        """Several entries at once, so that a queue that answers slowly delays its own alone; each one's in order."""
        if len(runs) < 2:
            for run in runs:
                self._send_due(run, may_go_on)
            return runs
        with ThreadPoolExecutor(min(SENDERS, len(runs)), "cloudq-tick") as pool:
            for done in [pool.submit(self._send_due, run, may_go_on) for run in runs]:
                done.result()
        return runs

    def _send_due(self, run: _Run, may_go_on: Callable[[], bool]) -> None:
        for slot in run.due.slots:
            if not may_go_on():
                return
            if not self._try_slot(run, slot):
                run.wake = self._clock.time() + 1.0
                return
            run.pass_by(slot)
        if run.due.last is not None and may_go_on():
            run.pass_by(run.due.last)
            run.wake = self._next(run.entry, run.due.last)

    def _left_to_eventbridge(self, entry: Entry) -> bool:
        if not self._app.conf.schedule_sync:
            return False
        known = self._left.get(entry.name)
        if known is None or known[0] != entry:
            known = self._left[entry.name] = (entry, refusal(self._app, entry) is None)
        return known[1]

    def _next(self, entry: Entry, last: float) -> float | None:
        known = self._nexts.get(entry.name)
        if known is None or known[0] != entry or known[1] != last:
            known = self._nexts[entry.name] = (entry, last, entry.next_due(last, self._zone))
        return known[2]

    def _try_slot(self, run: _Run, slot: float) -> bool:
        try:
            return self._slot(run, slot)
        except OperationalError as error:
            self._complain(run.entry.name, f"cannot be sent for now: {error}")
            return False

    def _slot(self, run: _Run, slot: float) -> bool:
        """True when the slot is dealt with; False: try again later."""
        entry = run.entry
        claim = self._once.claim(f"{entry.name}\x1f{slot_text(slot)}", self._owner, self._claim_seconds)
        if isinstance(claim, Done):
            return True
        if not isinstance(claim, Claimed):
            logger.info("periodic task %s: another beat is sending %s", entry.name, slot_text(slot))
            return False
        perhaps_sent = claim.token.turn > 1 or (entry.name, slot) in self._tried
        task_id = tick_id(identity(self._app), entry.name, slot)
        try:
            if perhaps_sent and self._has_record(task_id):
                run.sent.append(Sent(entry.name, slot, task_id))
            elif self._skips(entry, run.mark):
                logger.info(
                    "periodic task %s: %s is left out, the run before has not ended",
                    entry.name,
                    slot_text(slot),
                )
            else:
                self._tried.add((entry.name, slot))
                self._send(entry, slot, task_id)
                run.sent.append(Sent(entry.name, slot, task_id))
        except OperationalError:
            raise
        except (CloudQError, TypeError, ValueError) as error:
            logger.error("periodic task %s: the run of %s is lost: %s", entry.name, slot_text(slot), error)
        self._finish(claim.token)
        self._tried.discard((entry.name, slot))
        self._complaints.pop(entry.name, None)
        return True

    def _send(self, entry: Entry, slot: float, task_id: str) -> None:
        headers: Mapping[str, Any] = {
            **(entry.options.get("headers") or {}),
            NAME_HEADER: entry.name,
            SLOT_HEADER: slot,
            HOPS: 1,  # may exist twice: whoever runs it looks at the record first
        }
        options = {**entry.options, "task_id": task_id, "headers": headers}
        self._app.send_task(entry.task, entry.args, entry.kwargs, **options)
        logger.info("periodic task %s: sent %s[%s]", entry.name, entry.task, task_id)

    def _finish(self, token: Token) -> None:
        self._once.finish(token, b"", self._clock.time() + REMEMBERED)

    def _has_record(self, task_id: str) -> bool:
        return self._app.need_store().read(task_id) is not None

    def _skips(self, entry: Entry, mark: Mark) -> bool:
        if not entry.skip_if_running or mark.sent is None:
            return False
        longest = self._app.conf.result_expires or LOST_AFTER
        if entry.skip_if_running is not True:
            longest = min(longest, float(entry.skip_if_running))
        if self._clock.time() - mark.sent >= longest:
            return False
        record = self._app.need_store().read(tick_id(identity(self._app), entry.name, mark.sent))
        return record is None or not states.is_final(record.state)

    def _complain(self, name: str, text: str) -> None:
        """Say it once, not at every tick."""
        if self._complaints.get(name) != text:
            self._complaints[name] = text
            logger.error("periodic task %s: %s", name, text)


def send_now(app: CloudQ, entry: Entry) -> str:
    """Send one run of an entry at once, whatever its schedule says. Returns the task id."""
    headers = {**(entry.options.get("headers") or {}), NAME_HEADER: entry.name}
    return app.send_task(entry.task, entry.args, entry.kwargs, **{**entry.options, "headers": headers}).id


def check_apps(app: CloudQ) -> list[str]:
    """What should be said before beating: tasks that this app does not know (another may)."""
    try:
        entries = Book(app).declared()
    except ScheduleError as error:
        raise ImproperlyConfigured(str(error)) from error
    return [
        f"periodic task {entry.name!r}: no task {entry.task!r} is registered in this app"
        for entry in entries.values()
        if app.tasks.get(entry.task) is None
    ]
