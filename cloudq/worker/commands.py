"""What a worker does when it is told to, and what it answers (``cloudq.control.broadcast``)."""

from __future__ import annotations

import inspect
import logging
import resource
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cloudq.brokers.base import Delivery
from cloudq.brokers.claimcheck import ref_of
from cloudq.control.shown import HIDDEN, shown_call
from cloudq.errors import CloudQError
from cloudq.rates import limit_of
from cloudq.serializers.peek import peek
from cloudq.settings import SECRET
from cloudq.worker.batches import deliveries_of

if TYPE_CHECKING:
    from cloudq.worker.worker import Worker

logger = logging.getLogger("cloudq.control")


class Commands:
    """The commands of one worker: methods that begin with ``do_``. What they raise is the answer's error."""

    #: Those that change nothing.
    QUESTIONS = frozenset(
        {"ping", "active", "reserved", "scheduled", "registered", "stats", "revoked", "active_queues", "conf"}
        | {"query_task"}
    )

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def run(self, do: str, args: dict[str, Any]) -> dict[str, Any]:
        """Do it and say what came of it. Never raises."""
        method: Callable[..., Any] | None = getattr(self, f"do_{do}", None)
        if method is None:
            return {"error": f"this worker knows no command {do!r} (its cloudq is older, or newer)"}
        try:
            inspect.signature(method).bind(**args)
            return {"ok": method(**args)}
        except (CloudQError, TypeError, ValueError) as error:
            return {"error": str(error) or type(error).__name__}
        except Exception as error:  # the one who asked is to know, the worker is to go on
            logger.exception("the command %s failed", do)
            return {"error": f"{type(error).__name__}: {error}"}

    # --- questions ----------------------------------------------------------------------------

    def do_ping(self) -> str:
        return "pong"

    def do_active(self) -> list[dict[str, Any]]:
        return [
            {**self.describe(delivery), "time_start": each.since, "worker_pid": each.pid}
            for each in self._active()
            for delivery in deliveries_of(each.job)
        ]

    def do_reserved(self) -> list[dict[str, Any]]:
        running = self._running()
        return [self.describe(each) for each in self._held() if id(each) not in running]

    def do_scheduled(self) -> list[dict[str, Any]]:
        now = self._worker.app.clock.time()
        return [
            {"eta": now + rest, "priority": None, "request": self.describe(delivery)}
            for delivery, rest in self._worker.waiting.listed()
        ]

    def do_registered(self, attributes: list[str]) -> list[str]:
        tasks = self._worker.app.tasks
        found = []
        for name in tasks:
            values = [f"{each}={getattr(tasks[name], each, None)!r}" for each in attributes]
            found.append(f"{name} [{' '.join(values)}]" if values else name)
        return found

    def do_stats(self) -> dict[str, Any]:
        worker, usage = self._worker, resource.getrusage(resource.RUSAGE_SELF)
        now = worker.app.clock.time()
        unit = 1 if sys.platform == "darwin" else 1024
        return {
            **worker.stats(),
            "app": worker.app.main,
            "started": worker.steering.started,
            "uptime": round(now - worker.steering.started, 3),
            "broker": worker.app.broker.url,
            "rusage": {
                "utime": usage.ru_utime,
                "stime": usage.ru_stime,
                "maxrss": usage.ru_maxrss * unit,
            },
        }

    def do_revoked(self) -> list[str]:
        found = self._worker.steering.revocations
        return found.ids() if found is not None else []

    def do_active_queues(self) -> list[dict[str, Any]]:
        worker = self._worker
        infos = [(name, worker.infos[name]) for name in worker.queues]
        return [
            {
                "name": name,
                "paused": name in worker.adjust.paused,
                "fifo": info.fifo,
                "visibility_timeout": info.visibility_timeout,
                "dead_letter_queue": info.dead_letter_queue,
                "max_receive_count": info.max_receive_count,
            }
            for name, info in infos
        ]

    def do_conf(self) -> dict[str, Any]:
        app = self._worker.app
        urls = {
            "broker_url": app.broker.url,  # these show no credentials
            "result_backend": app.backend.url if app.backend is not None else "disabled://",
        }
        found = {
            name: HIDDEN if name in SECRET and value else value for name, value in self._worker.conf.items()
        }
        return {**found, **urls}

    def do_query_task(self, ids: list[str]) -> dict[str, Any]:
        running = self._running()
        found = {}
        for delivery in self._held():
            task_id = peek(delivery.body, delivery.message_id).id
            if task_id in ids:
                state = "active" if id(delivery) in running else "reserved"
                found[task_id] = [state, self.describe(delivery)]
        return found

    # --- orders -------------------------------------------------------------------------------

    def do_rate_limit(self, task_name: str, rate_limit: str | float | None) -> str:
        limit = limit_of(rate_limit)  # a bad one is refused here
        self._override(task_name, rate_limit=rate_limit or 0)
        return f"rate limit of {task_name} is {'off' if limit is None else rate_limit}"

    def do_time_limit(self, task_name: str, soft: float | None, hard: float | None) -> str:
        self._override(task_name, soft_time_limit=soft, time_limit=hard)
        return f"time limits of {task_name}: soft {_seconds(soft)}, hard {_seconds(hard)}"

    def do_add_consumer(self, queue: str) -> str:
        return f"consuming {queue}" if self._worker.adjust.add_queue(queue) else f"already consuming {queue}"

    def do_cancel_consumer(self, queue: str) -> str:
        if not self._worker.adjust.cancel_queue(queue):
            raise ValueError(f"{queue} is not consumed here; consumed: {', '.join(self._worker.queues)}")
        return f"no longer consuming {queue}"

    def do_pool_grow(self, n: int) -> str:
        return self._resize(n)

    def do_pool_shrink(self, n: int) -> str:
        return self._resize(-n)

    def do_autoscale(self, max: int, min: int) -> str:
        self._worker.adjust.autoscale(max, min)
        return f"autoscaling between {min} and {max}"

    def do_pool_restart(self) -> str:
        self._worker.adjust.restart_pool()
        return "children are replaced, each after its task"

    def do_shutdown(self) -> str:
        self._worker.steering.afterwards.append(lambda: self._worker.stop("asked by remote control"))
        return "stopping"

    # --- parts --------------------------------------------------------------------------------

    def _resize(self, by: int) -> str:
        return f"{self._worker.adjust.resize(by)} at once"

    def _override(self, task_name: str, **options: Any) -> None:
        worker = self._worker
        if worker.app.tasks.get(task_name) is None:
            raise ValueError(f"this worker knows no task {task_name!r}")
        worker.adjust.set_options(task_name, options)

    def _active(self) -> list[Any]:
        pools = (self._worker.pool, self._worker.quarantine)
        return [each for pool in pools for each in getattr(pool, "active", list)()]

    def _running(self) -> set[int]:
        return {id(delivery) for each in self._active() for delivery in deliveries_of(each.job)}

    def _held(self) -> list[Delivery]:
        return [*self._worker.running.values(), *self._worker._groups.listed()]

    def _arguments(self, delivery: Delivery) -> tuple[str, str]:
        hidden = self._worker.conf.monitoring_redact
        try:
            envelope = self._worker.app.codec.decode(
                delivery.body, delivery.queue, delivery.message_id, sent_at=delivery.sent_at
            )
        except CloudQError as error:
            return f"unreadable: {error}", ""
        return shown_call(self._worker.app.tasks.get(envelope.task), envelope.args, envelope.kwargs, hidden)

    def describe(self, delivery: Delivery) -> dict[str, Any]:
        """A task in hand, with Celery's names."""
        worker, found = self._worker, peek(delivery.body, delivery.message_id)
        if (large := ref_of(delivery.body)) is not None:  # not to be fetched just to be looked at
            args, kwargs = f"{large.size} bytes, kept in {large.uri}", ""
        else:
            args, kwargs = self._arguments(delivery)
        return {
            "id": found.id,
            "name": found.task,
            "type": found.task,
            "args": args,
            "kwargs": kwargs,
            "hostname": worker.hostname,
            "retries": found.retries,
            "acknowledged": False,
            "received": delivery.received_at,
            "delivery_info": {
                "queue": delivery.queue,
                "message_id": delivery.message_id,
                "group_id": delivery.group_id,
                "redelivered": delivery.receive_count > 1,
                "receive_count": delivery.receive_count,
            },
        }


def _seconds(value: float | None) -> str:
    return "none" if value is None else f"{value:g} s"
