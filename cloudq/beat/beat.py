"""``cloudq beat``: any number may run, one of them leads (issue 6).

The leader holds a lease in the results store and renews it; when it dies, another takes over
after at most the lease. Two that both believe to lead (one was paused, say) do no harm: every slot
is claimed before it is sent.
"""

from __future__ import annotations

import logging
import os
import random
import socket
from collections.abc import Callable
from typing import Final

from cloudq.app import CloudQ
from cloudq.beat.names import segment, store_of
from cloudq.beat.ticker import Ticker, check_apps
from cloudq.coordination.lock import Lease, Lock
from cloudq.errors import LeaseLost, OperationalError

logger = logging.getLogger("cloudq.beat")

#: Longest nap, seconds: how soon a signal is noticed.
_NAP: Final = 0.5
#: Seconds before the next try when the store or the broker is away.
_AGAIN: Final = 2.0


class Beat:
    """Sends an app's periodic tasks while it leads. ``run()`` blocks; ``stop()`` may be called from a signal.

    ``lease`` and ``interval`` (seconds) default to ``beat_lease`` and ``beat_max_loop_interval``.
    """

    def __init__(
        self,
        app: CloudQ,
        *,
        hostname: str | None = None,
        lease: float | None = None,
        interval: float | None = None,
        rand: Callable[[], float] = random.random,
    ) -> None:
        self.app = app
        self.hostname = hostname or f"beat@{socket.gethostname()}.{os.getpid()}"
        self._clock = app.clock
        self._ttl = lease or app.conf.beat_lease
        self._interval = interval or app.conf.beat_max_loop_interval
        self._rand = rand
        self._lock = Lock(store_of(app), f"beat-{segment(app)}", app.clock, rand=rand)
        self._ticker = Ticker(app, claim_seconds=self._ttl)
        self._lease: Lease | None = None
        self._renew_at = 0.0
        self._stopping = False

    @property
    def leads(self) -> bool:
        """Does it hold the lease, by its own clock?"""
        return self._lease is not None and self._clock.time() < self._lease.until

    def stop(self) -> None:
        """End ``run`` soon."""
        self._stopping = True

    def run(self) -> int:
        """Beat until ``stop``; gives the lease back so that another can go on at once. Returns 0."""
        for warning in check_apps(self.app):
            logger.warning("%s", warning)
        try:
            while not self._stopping:
                self._nap(self.step())
        finally:
            self._resign()
        return 0

    def step(self) -> float:
        """One round: take or keep the lead, send what is due. Returns the seconds until the next one."""
        try:
            if not self._lead():
                return self._ttl / 3 * (0.75 + 0.5 * self._rand())
            wake = self._ticker.tick(self._may_go_on).wake
        except OperationalError as error:
            logger.error("beat %s: %s; trying again", self.hostname, error)
            return _AGAIN
        now = self._clock.time()
        longest = min(self._interval, max(0.0, self._renew_at - now))
        return longest if wake is None else max(0.0, min(longest, wake - now))

    def _may_go_on(self) -> bool:
        if not self._stopping:
            self._renew()  # a tick with many entries may take longer than the lease
        return self.leads and not self._stopping

    def _lead(self) -> bool:
        self._renew()
        if self._lease is None:
            taken = self._lock.acquire(self._ttl)
            if taken is None:
                return False
            self._keep(taken)
            self._ticker.forget()
            logger.info("beat %s: leads", self.hostname)
        return self.leads

    def _renew(self) -> None:
        """Hold on to the lease when it is time; without it afterwards, somebody else leads or may."""
        if self._lease is None or self._clock.time() < self._renew_at:
            return
        try:
            self._keep(self._lock.renew(self._lease, self._ttl))
        except LeaseLost:
            logger.warning("beat %s: another one leads now", self.hostname)
            self._lease = None
        except OperationalError as error:
            logger.warning("beat %s: the lease could not be renewed: %s", self.hostname, error)
            self._renew_at = self._clock.time() + self._ttl / 10  # each try takes seconds
            if not self.leads:
                self._lease = None

    def _keep(self, lease: Lease) -> None:
        self._lease = lease
        self._renew_at = self._clock.time() + self._ttl / 3

    def _resign(self) -> None:
        if self._lease is None:
            return
        try:
            self._lock.release(self._lease)
        except OperationalError as error:
            logger.warning("beat %s: the lease could not be given back: %s", self.hostname, error)
        self._lease = None

    def _nap(self, seconds: float) -> None:
        end = self._clock.monotonic() + seconds
        while not self._stopping and (left := end - self._clock.monotonic()) > 0:
            self._clock.sleep(min(left, _NAP))
