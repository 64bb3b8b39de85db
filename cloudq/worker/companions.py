"""What goes along with a worker process: whoever watches it, and whom it tells how it is."""

from __future__ import annotations

from typing import Final

from cloudq.worker import autoscale, systemd
from cloudq.worker.autoscale import Autoscaler
from cloudq.worker.condition import Condition
from cloudq.worker.health import HealthServer
from cloudq.worker.imds import Imds, on_ec2
from cloudq.worker.interruption import Interruption
from cloudq.worker.reload import Reloader
from cloudq.worker.worker import Worker

#: Exit code of a worker that stopped because its machine goes away: nobody should start it again there.
GOING: Final = 4


class Companions:
    """Of one worker; what there is of them follows from its settings."""

    def __init__(self, worker: Worker, reload: bool = False) -> None:
        self._reloader = Reloader(worker) if reload else None
        self._interruption: Interruption | None = None
        self._condition: Condition | None = None
        self._worker = worker
        self._systemd = systemd.from_environment(worker, self._how_it_is)
        self._health: HealthServer | None = None
        if worker.conf.worker_health_port is not None:
            self._health = HealthServer(
                self._how_it_is(), worker.conf.worker_health_host, worker.conf.worker_health_port
            )
        self._autoscaler: Autoscaler | None = None
        if worker.conf.worker_autoscale is not None:
            self._autoscaler = Autoscaler(worker, *autoscale.parse(worker.conf.worker_autoscale))
        watch = worker.conf.worker_watch_interruption
        if watch or (watch is None and on_ec2()):
            self._interruption = Interruption(
                worker,
                Imds(),
                worker.app.clock,
                insist=bool(watch),
                hook=worker.conf.worker_lifecycle_hook,
            )

    def start(self) -> bool:
        """Before the worker starts. False: it is not to start any more."""
        if self._health is not None:
            self._health.start()
        if self._reloader is not None:
            self._reloader.start()
        if self._interruption is not None:
            self._interruption.start()
        return not self.going

    def close(self) -> None:
        """After the worker has stopped."""
        if self._reloader is not None:
            self._reloader.close()
        if self._autoscaler is not None:
            self._autoscaler.close()
        if self._interruption is not None:
            self._interruption.close()
        if self._systemd is not None:
            self._systemd.close()
        if self._health is not None:
            self._health.close()

    def _how_it_is(self) -> Condition:
        if self._condition is None:
            self._condition = Condition(self._worker, self._worker.conf.worker_health_timeout)
        return self._condition

    @property
    def changed(self) -> bool:
        """Has a module changed, so that the worker is to start anew?"""
        return self._reloader is not None and self._reloader.changed is not None

    @property
    def going(self) -> bool:
        """Is the machine about to go away?"""
        return self._interruption is not None and self._interruption.notice is not None
