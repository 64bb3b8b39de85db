"""How an app sees and steers its workers: ``app.control``, ``app.events``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # loaded when they are needed, see cloudq/assembly.py
    from cloudq.clock import Clock
    from cloudq.conf import Conf
    from cloudq.control.control import Control
    from cloudq.monitoring.history import History
    from cloudq.monitoring.receiver import Events
    from cloudq.opened import Opened
    from cloudq.producer import Producer
    from cloudq.results.store import ResultStore


class Watched:
    """The part of an app that needs its results store to reach workers."""

    if TYPE_CHECKING:
        conf: Conf
        clock: Clock
        _opened: Opened

        def need_store(self) -> ResultStore: ...
        @property
        def producer(self) -> Producer: ...

    @property
    def control(self) -> Control:
        """Remote control: ``app.control.revoke(id)``, ... Needs a results store."""
        from cloudq import assembly

        parts = (self.need_store(), self.conf, self.clock)
        undo = lambda task_id, tries: self.producer.unschedule(task_id, tries)  # noqa: E731
        return self._opened.get("control", lambda: assembly.control_of(*parts, undo))

    @property
    def history(self) -> History:
        """The ends of tasks that workers at level ``history`` have kept: ``app.history.query(state="FAILURE")``."""
        from cloudq import assembly

        store = self.need_store()
        return self._opened.get("history", lambda: assembly.history_of(store, self.conf, self.clock))

    @property
    def events(self) -> Events:
        """What workers at level ``tasks`` tell: ``app.events.Receiver(handlers).capture()``."""
        from cloudq import assembly

        store = self.need_store()
        return self._opened.get("events", lambda: assembly.events_of(store, self.conf, self.clock))
