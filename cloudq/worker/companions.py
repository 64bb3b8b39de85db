"""What goes along with a worker process: whoever watches it, and whom it tells how it is."""

from __future__ import annotations

from typing import Final

from cloudq.worker.imds import Imds, on_ec2
from cloudq.worker.interruption import Interruption
from cloudq.worker.worker import Worker

#: Exit code of a worker that stopped because its machine goes away: nobody should start it again there.
GOING: Final = 4


class Companions:
    """Of one worker; what there is of them follows from its settings."""

    def __init__(self, worker: Worker) -> None:
        self._interruption: Interruption | None = None
        watch = worker.conf.worker_watch_interruption
        if watch or (watch is None and on_ec2()):
            self._interruption = Interruption(worker, Imds(), worker.app.clock, insist=bool(watch))

    def start(self) -> bool:
        """Before the worker starts. False: it is not to start any more."""
        if self._interruption is not None:
            self._interruption.start()
        return not self.going

    def close(self) -> None:
        """After the worker has stopped."""
        if self._interruption is not None:
            self._interruption.close()

    @property
    def going(self) -> bool:
        """Is the machine about to go away?"""
        return self._interruption is not None and self._interruption.notice is not None
