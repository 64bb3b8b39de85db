"""Trying a failed workflow again, from the tasks that failed: what had succeeded stays as it is.

For each task that failed: the records of what never ran because of it are removed, the joins that
counted it as ended are opened again, and its message, which its record has kept, is sent once more
under the same id. Every step may be repeated: until the message is sent the record says RETRY and
still has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from cloudq import states
from cloudq.canvas.freeze import Place, frozen_members
from cloudq.canvas.plan import Flow, is_group
from cloudq.clock import Clock
from cloudq.errors import ChordError, CloudQError
from cloudq.message import Envelope
from cloudq.outgoing import Outgoing
from cloudq.results.record import Record
from cloudq.results.store import ResultStore
from cloudq.serializers.codec import Codec
from cloudq.workflows import shape as shapes
from cloudq.workflows.launch import Launcher, put
from cloudq.workflows.members import CAUSE, ids_of
from cloudq.workflows.words import AGAIN, ARRIVE, JOINED

#: In the record of a task that failed: ``{"queue", "message"}``, to send it again.
CALL: Final = "call"


class Again:
    """Finds what failed, and sends it again."""

    def __init__(self, store: ResultStore, codec: Codec, launcher: Launcher, clock: Clock) -> None:
        self._store = store
        self._codec = codec
        self._launcher = launcher
        self._clock = clock

    def retry(self, workflow_id: str) -> list[str]:
        """Send the tasks of this workflow again that failed; their ids.

        ``workflow_id`` is the id of the workflow's result, or of any task in it. Raises CloudQError
        when nothing has failed, or when a message was not kept.
        """
        failed = {record.id: record for record in self._failed(workflow_id)}
        if not failed:
            raise CloudQError(
                f"nothing in the workflow {workflow_id} has failed: there is nothing to try again"
            )
        calls = {task_id: self._call_of(record) for task_id, record in failed.items()}
        for task_id, call in calls.items():
            self._undo(call.envelope)
            record = Record(task_id, states.RETRY, extra={CALL: failed[task_id].extra[CALL]})
            self._store.rewrite(record)
        self._launcher.send(calls.values())
        return list(failed)

    # --- what failed --------------------------------------------------------------------------

    def _failed(self, workflow_id: str) -> Iterator[Record]:
        shape = shapes.find(self._store, workflow_id)
        wanted = [workflow_id] if shape is None else list(shapes.ids_in(shape))
        seen: set[str] = set()
        yield from self._roots(wanted, seen)

    def _roots(self, wanted: Iterable[str], seen: set[str]) -> Iterator[Record]:
        """The records of failures that have no other failure behind them."""
        new = [each for each in dict.fromkeys(wanted) if each not in seen]
        seen.update(new)
        for n in range(0, len(new), 1000):
            for record in self._store.read_many(new[n : n + 1000]).values():
                if not (record.failed or (record.state == states.RETRY and CALL in record.extra)):
                    continue
                if behind := self._behind(record):
                    yield from self._roots(behind, seen)
                else:
                    yield record

    def _behind(self, record: Record) -> list[str]:
        if cause := record.extra.get(CAUSE):
            return [str(cause)]
        if isinstance(record.result, ChordError) and CALL in record.extra:
            joined = self._call_of(record).envelope.headers.get(JOINED)
            if isinstance(joined, Mapping):
                return list(ids_of(self._store, joined))
        return []

    def _call_of(self, record: Record) -> Outgoing:
        kept = record.extra.get(CALL)
        if not isinstance(kept, Mapping):
            raise CloudQError(
                f"the message of {record.id}, which ended in {record.state}, was not kept: send the workflow anew"
            )
        queue = str(kept["queue"])
        envelope = self._codec.decode(str(kept["message"]), queue, record.id)
        headers = {name: each for name, each in envelope.headers.items() if name != AGAIN}
        again = envelope.with_(headers=headers, retries=0, eta=None, expires=None)
        once_more = f"{record.id}-again-{self._clock.time():.3f}"
        return self._launcher.resend(again, queue).with_(dedup_id=once_more)

    # --- undoing what followed ----------------------------------------------------------------

    def _undo(self, envelope: Envelope) -> None:
        self._forget([dict(each) for each in envelope.chain])
        if not envelope.chain and envelope.group is not None and envelope.chord is not None:
            group = envelope.group
            place = {"id": group.id, "index": group.index, "size": group.size}
            self._reopen({"group": place, "chord": envelope.chord})

    def _forget(self, steps: Flow) -> None:
        for step in self._launcher.shelf.every(steps):
            if is_group(step):
                self._forget_group(step)
                continue
            self._store.forget(step["options"]["task_id"])
            if step["options"].get("chord") is not None:
                self._reopen(step["options"])

    def _forget_group(self, step: Mapping[str, Any]) -> None:
        own = step["options"]
        tail = own.get("group")
        place = Place(tail["id"], tail["index"]) if tail else Place(own["task_id"])
        for flow, index in frozen_members(dict(step), place):
            if tail:
                put(flow, place.group_id, index, tail.get("size"), own.get("chord"))
            self._forget(flow)

    def _reopen(self, options: Mapping[str, Any]) -> None:
        group, chord = options["group"], options["chord"]
        self._launcher.join(group["id"], group.get("size")).reopen(group["index"])
        if chord.get("task") == ARRIVE:
            self._reopen(chord["kwargs"])
        else:
            self._forget(self._launcher.unshelved(chord))
