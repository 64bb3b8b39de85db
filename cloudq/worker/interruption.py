"""Before the machine goes away: spot interruptions and scale-in stop the worker while there is time.

EC2 tells an instance by its metadata (asked every five seconds, as AWS advises): two minutes before a
spot interruption, and when its Auto Scaling group has decided to terminate it. ECS sends SIGTERM.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from cloudq.aws.factory import make_port
from cloudq.aws.port import Port
from cloudq.clock import Clock
from cloudq.worker.imds import Imds, MetadataUnavailable
from cloudq.worker.scalein import ScaleIn, parse_hook

if TYPE_CHECKING:
    from cloudq.worker.worker import Worker

logger = logging.getLogger("cloudq.worker")

EVERY: Final = 5.0
#: Seconds before the machine goes by which everything must have been given back.
MARGIN: Final = 10.0
#: Seconds between two heartbeats of a lifecycle hook, whose shortest timeout is 30.
HEARTBEAT: Final = 15.0


@dataclass(frozen=True, slots=True)
class Notice:
    """The machine is about to go. ``at``: when (seconds since the epoch), if that was said."""

    reason: str
    at: float | None = None
    scale_in: bool = False


class Interruption:
    """Watches one instance for one worker.

    ``insist``: somebody asked for it, so metadata that cannot be had is worth a warning; otherwise it
    then is not EC2, or not ours to ask, and nothing is watched. ``hook``: the lifecycle hook of
    scale-in, ``GROUP:HOOK``; without it AWS is asked for it. Raises ImproperlyConfigured.
    """

    def __init__(
        self,
        worker: Worker,
        imds: Imds,
        clock: Clock,
        *,
        insist: bool = False,
        every: float = EVERY,
        hook: str | None = None,
        port: Callable[[str | None], Port] = make_port,
    ) -> None:
        self._worker = worker
        self._imds = imds
        self._clock = clock
        self._insist = insist
        self._every = every
        self._hook = None if hook is None else parse_hook(hook)
        self._port = port
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._rebalance_said = False
        self._away = False
        self._scale_in: ScaleIn | None = None
        #: What was found; None while the machine stays.
        self.notice: Notice | None = None

    def start(self) -> None:
        """Look once, then go on looking in a thread."""
        try:
            self.notice = self.look()
        except MetadataUnavailable as error:
            if not self._insist:
                logger.debug("interruptions are not watched: %s", error)
                return
            logger.warning("watching for interruptions: %s; trying again", error)
            self._away = True
        self._thread = threading.Thread(target=self._run, name="cloudq-interruption", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """The worker has stopped: nothing is left to wait for, and the group may go on."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(5.0)
        if self._scale_in is not None:
            self._scale_in.complete()

    def look(self) -> Notice | None:
        """What the metadata say now. Raises MetadataUnavailable."""
        action = self._imds.get("spot/instance-action")
        if action is not None:
            return _spot(action)
        state = self._imds.get("autoscaling/target-lifecycle-state")
        if state is not None and state.endswith("Terminated"):
            return Notice("its Auto Scaling group terminates the instance", scale_in=True)
        if not self._rebalance_said and self._imds.get("events/recommendations/rebalance") is not None:
            self._rebalance_said = True
            logger.warning("EC2 recommends to rebalance: this spot instance may be interrupted soon")
        return None

    # --- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        while self.notice is None:
            if self._closed.wait(self._every):
                return
            self.notice = self._try_to_look()
        try:
            self._leave(self.notice)
        except Exception:
            logger.exception("stopping for an interruption failed")

    def _try_to_look(self) -> Notice | None:
        try:
            notice = self.look()
        except MetadataUnavailable as error:
            if not self._away:
                logger.warning("watching for interruptions: %s; trying again", error)
            self._away = True
            return None
        self._away = False
        return notice

    def _leave(self, notice: Notice) -> None:
        logger.warning("the machine goes away: %s", notice.reason)
        if not self._worker.stopping:
            self._worker.stop(notice.reason)
        if notice.scale_in:
            self._wait_for_group()
        elif notice.at is not None:
            left = notice.at - self._clock.time() - MARGIN
            if not self._closed.wait(max(0.0, left)):
                self._worker.stop("out of time")

    def _wait_for_group(self) -> None:
        """Keep the group waiting while tasks run; ``close`` lets it go on."""
        instance = self._imds.get("instance-id")
        region = self._imds.get("placement/region")
        if instance is None:
            logger.warning("the instance's metadata have no id: its lifecycle hook is left to time out")
            return
        self._scale_in = ScaleIn(self._port(region), instance, self._hook)
        while not self._closed.wait(HEARTBEAT):
            self._scale_in.heartbeat()


def _spot(text: str) -> Notice:
    """``{"action": "terminate", "time": "2026-01-02T03:04:05Z"}`` as a notice."""
    try:
        found = json.loads(text)
        at = datetime.fromisoformat(found["time"]).timestamp()
        return Notice(f"spot interruption ({found['action']} at {found['time']})", at)
    except (ValueError, KeyError, TypeError):
        return Notice(f"spot interruption ({text[:100]})")
