"""Dead letters one can read: list, show, send back, delete. Works on every broker, with receive,
send, acknowledge and release alone."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from cloudq import ids
from cloudq.brokers.base import (
    BURIED_AT,
    BURY_ATTRIBUTES,
    DETAIL,
    ORIGIN,
    PACKED,
    REASON,
    Broker,
    Delivery,
    Message,
    is_fifo,
)
from cloudq.brokers.claimcheck import ClaimCheck, ref_of
from cloudq.errors import NoDeadLetterQueue, PayloadRefused, Unsupported

#: Reason shown for messages that the broker itself moved: received too often, never settled.
REDRIVEN: Final = "received_too_often"
#: Attribute of a message that was sent back: how often.
REDRIVES: Final = "cloudq-redrives"
#: SQS takes ten attributes with a message.
_ROOM: Final = 10
#: Seconds that a dead letter is held while it is looked at.
_HOLD: Final = 60.0
#: Seconds between two looks at whether to stop, in a pause.
_GLANCE: Final = 0.5


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One buried message. Times are seconds since the epoch."""

    message_id: str
    reason: str
    detail: str
    #: The queue it came from.
    origin: str
    buried_at: float | None
    sent_at: float
    task: str | None
    task_id: str | None
    body: str
    delivery: Delivery
    #: How often it was sent back already.
    redrives: int = 0

    def plain(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "message_id": self.message_id,
            "reason": self.reason,
            "detail": self.detail,
            "origin": self.origin,
            "buried_at": self.buried_at,
            "sent_at": self.sent_at,
            "task": self.task,
            "task_id": self.task_id,
            "body": self.body,
            "redrives": self.redrives,
            "attributes": dict(self.delivery.attributes),
        }


@dataclass(frozen=True, slots=True)
class Filter:
    """Which dead letters are meant; every given criterion must fit. ``older_than`` is seconds.
    ``fewer_redrives``: it was sent back fewer times than this."""

    task: str | None = None
    reason: str | None = None
    message_ids: frozenset[str] = frozenset()
    older_than: float | None = None
    fewer_redrives: int | None = None

    def fits(self, letter: DeadLetter, now: float) -> bool:
        if self.task is not None and letter.task != self.task:
            return False
        if self.reason is not None and letter.reason != self.reason:
            return False
        wanted = {letter.message_id, letter.task_id}
        if self.message_ids and not wanted & self.message_ids:
            return False
        if self.fewer_redrives is not None and letter.redrives >= self.fewer_redrives:
            return False
        return self.older_than is None or now - (letter.buried_at or letter.sent_at) >= self.older_than


class DeadLetters:
    """The dead-letter queue of one queue. ``queue`` is the origin's name.

    ``wait`` is how many seconds an empty answer is doubted: SQS may answer one receive with nothing
    although there is something. ``claims`` reads and removes what large messages point to; without it
    redriving works all the same, and purging leaves that to the bucket's lifecycle rule.
    """

    def __init__(
        self, broker: Broker, queue: str, wait: float = 1.0, claims: ClaimCheck | None = None
    ) -> None:
        self._broker = broker
        self._wait = wait
        self._claims = claims
        self.queue = queue
        name = broker.describe(queue).dead_letter_queue
        if name is None:
            raise NoDeadLetterQueue(
                f"queue {queue} has no dead-letter queue; create one with `cloudq queues create {queue}` or Terraform"
            )
        self.name = name

    def peek(self, limit: int, chosen: Filter | None = None) -> list[DeadLetter]:
        """Up to ``limit`` dead letters, left where they are."""
        chosen = chosen or Filter()
        held: list[Delivery] = []
        found: list[DeadLetter] = []
        try:
            for delivery in self._receive():
                held.append(delivery)
                letter = self._read(delivery)
                if chosen.fits(letter, time.time()):
                    found.append(letter)
                if len(found) >= limit:
                    break
        finally:
            self._give_back(held)
        return found

    def text(self, letter: DeadLetter) -> str:
        """The whole message, wherever it lies. Raises PayloadMissing and the like, OperationalError."""
        ref = ref_of(letter.body)
        if ref is None:
            return letter.body
        if self._claims is None:
            raise PayloadRefused(f"the message lies in {ref.uri}: set broker_large_messages to read it")
        return self._claims.load(ref)

    def redrive(
        self,
        chosen: Filter | None = None,
        *,
        limit: int | None = None,
        to: str | None = None,
        rate: float | None = None,
        edit: Callable[[str], str] | None = None,
        progress: Callable[[DeadLetter], None] = lambda letter: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> int:
        """Send dead letters back to where they came from (or ``to``); returns how many.

        Each is sent first and deleted then: a crash between costs a duplicate, never a message.
        ``rate`` is messages per second; ``edit`` changes a message's text on the way (not a signed one's:
        Unsupported). What a large message points to stays for the one that is sent.
        """

        def act(letter: DeadLetter) -> None:
            message = self._restored(letter, edit)
            self._broker.send(to or letter.origin, [message])
            self._broker.ack([letter.delivery])
            if message.body != letter.body:  # edited: it points to a text of its own, or to none
                self._forget(letter)
            progress(letter)
            if rate:
                _pause(1.0 / rate, stop)

        return self._each(chosen, limit, act, stop)

    def purge(self, chosen: Filter | None = None) -> int | None:
        """Delete dead letters: those that fit (returns how many), or without a filter all of them."""
        if chosen is None and self._claims is None:
            self._broker.purge(self.name)
            return None
        return self._each(chosen, None, self._drop)

    def _drop(self, letter: DeadLetter) -> None:
        self._broker.ack([letter.delivery])
        self._forget(letter)

    def _forget(self, letter: DeadLetter) -> None:
        if self._claims is not None:
            self._claims.forget([letter.body])

    def _each(
        self,
        chosen: Filter | None,
        limit: int | None,
        act: Callable[[DeadLetter], None],
        stop: Callable[[], bool] = lambda: False,
    ) -> int:
        chosen = chosen or Filter()
        spared: list[Delivery] = []
        count = 0
        try:
            for delivery in self._receive():
                if stop():  # asked first: what does not fit takes its time, too
                    spared.append(delivery)
                    break
                letter = self._read(delivery)
                if not chosen.fits(letter, time.time()):
                    spared.append(delivery)
                    continue
                try:
                    act(letter)
                except BaseException:
                    spared.append(delivery)
                    raise
                count += 1
                if limit is not None and count >= limit:
                    break
        finally:
            self._give_back(spared)
        return count

    def _receive(self) -> Iterator[Delivery]:
        """Every message of the queue once; each stays held until it is given back or deleted."""
        seen: set[str] = set()
        empty = 0
        while empty < 2:
            batch = self._broker.receive(self.name, 10, self._wait if empty else 0.0, _HOLD)
            fresh = [each for each in batch if each.message_id not in seen]
            self._give_back([each for each in batch if each.message_id in seen])
            empty = 0 if fresh else empty + 1
            for number, each in enumerate(fresh):
                seen.add(each.message_id)
                try:
                    yield each
                except GeneratorExit:
                    self._give_back(fresh[number + 1 :])
                    raise

    def _give_back(self, deliveries: list[Delivery]) -> None:
        if deliveries:
            self._broker.release(deliveries, 0.0)

    def _read(self, delivery: Delivery) -> DeadLetter:
        attributes = delivery.attributes
        task, task_id = _peek_task(delivery.body)
        count = delivery.receive_count
        reason = attributes.get(REASON)
        return DeadLetter(
            message_id=delivery.message_id,
            reason=reason or REDRIVEN,
            detail=attributes.get(DETAIL, "")
            or (
                "" if reason else f"received {count - 1} times without being settled: its worker died or hung"
            ),
            origin=attributes.get(ORIGIN, self.queue),
            buried_at=_epoch(attributes.get(BURIED_AT)),
            sent_at=delivery.sent_at,
            task=task,
            task_id=task_id or delivery.message_id,
            body=delivery.body,
            delivery=delivery,
            redrives=_redrives(delivery),
        )

    def _restored(self, letter: DeadLetter, edit: Callable[[str], str] | None) -> Message:
        delivery = letter.delivery
        attributes = {k: v for k, v in delivery.attributes.items() if k not in (*BURY_ATTRIBUTES, PACKED)}
        attributes.update(_packed(delivery))
        if len(attributes) < _ROOM or REDRIVES in attributes:
            attributes[REDRIVES] = str(letter.redrives + 1)
        message = Message(letter.body, group_id=delivery.group_id, attributes=attributes)
        if is_fifo(self.name):
            message = message.with_(dedup_id=ids.new_id())  # the old one would be dropped as a duplicate
        return message if edit is None else message.with_(body=self._edited(letter, edit))

    def _edited(self, letter: DeadLetter, edit: Callable[[str], str]) -> str:
        if _is_signed(letter.body):
            raise Unsupported(
                f"message {letter.message_id} is signed: changed it would be refused; send the task again instead"
            )
        text = edit(self.text(letter))
        if ref_of(letter.body) is None or self._claims is None:
            return text
        head = {"v": 1, "id": letter.task_id, "task": _peek_task(text)[0]}
        return msgspec.json.encode({**head, "ref": self._claims.store(text).plain()}).decode()


def _pause(seconds: float, stop: Callable[[], bool]) -> None:
    """Sleep, but no longer than it takes ``stop`` to say so."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and not stop():
        time.sleep(min(left, _GLANCE))


def _redrives(delivery: Delivery) -> int:
    found = delivery.attributes.get(REDRIVES) or _packed(delivery).get(REDRIVES, "0")
    return int(found) if found.isascii() and found.isdigit() else 0


def _packed(delivery: Delivery) -> dict[str, str]:
    """Attributes that were put into one when it was buried."""
    packed = delivery.attributes.get(PACKED)
    try:
        return msgspec.json.decode(packed, type=dict[str, str]) if packed else {}
    except msgspec.MsgspecError:
        return {}


def _epoch(text: str | None) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except ValueError:
        return None


def _is_signed(body: str) -> bool:
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False
    return isinstance(found, dict) and "signed" in found


def _peek_task(body: str) -> tuple[str | None, str | None]:
    """Task name and id for display, from a body that may be anything."""
    try:
        found = msgspec.json.decode(body)
        if isinstance(found, dict) and isinstance(found.get("signed"), str):
            found = msgspec.json.decode(found["signed"])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None, None
    if not isinstance(found, dict):
        return None, None
    task, task_id = found.get("task"), found.get("id")
    return (task if isinstance(task, str) else None), (task_id if isinstance(task_id, str) else None)


_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd]?)")


def parse_age(text: str) -> float:
    """``90``, ``15m``, ``2h``, ``3d`` as seconds. Raises ValueError."""
    found = _AGE.fullmatch(text.strip())
    if not found:
        raise ValueError(f"an age is a number with s, m, h or d, like 15m; got {text!r}")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]


def parse_moment(text: str, now: float) -> float:
    """``2h`` is two hours before ``now``; else an ISO-8601 time, UTC unless it says otherwise. Raises ValueError."""
    try:
        return now - parse_age(text)
    except ValueError:
        pass
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise ValueError(
            f"an age like 90, 15m, 2h or 3d, or a time like 2026-01-31T12:00; got {text!r}"
        ) from None


def only(ids_given: Iterable[str]) -> frozenset[str]:
    """Message or task ids as a filter wants them."""
    return frozenset(ids_given)
