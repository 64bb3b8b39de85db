"""Every setting of an app: its type, default, unit and meaning, in one table.

Names are Celery's where the idea is the same. An unknown name or a value of the wrong type is refused with
the nearest right name or the expected type. Where values come from: see ``cloudq.conf``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from cloudq.errors import SettingError
from cloudq.settingtypes import as_type, from_text, type_name, unknown_name


def _setting(default: Any, doc: str, unit: str = "") -> Any:
    metadata = {"doc": doc, "unit": unit}
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(repr=False, eq=False)  # each generated method costs a millisecond of every import
class Settings:
    """The values in force. ``docs/settings.md`` lists them; a test keeps the two alike."""

    # where things are
    broker_url: str | None = _setting(
        None,
        "Broker URL: `sqs://`, `sqlite:///path`, `memory://`. Default: one SQLite file, `.cloudq/cloudq.db`.",
    )
    result_backend: str | None = _setting(
        None,
        "Results URL: `dynamodb://table`, `s3://bucket/prefix`, `gs://`, `azureblob://`, `file:///dir`, "
        "`sqlite:///path`, `memory://`; `disabled://` for none. Default: the same SQLite file.",
    )
    env: str = _setting(
        "development",
        "`production` (or running inside Lambda) means: no default URLs, a missing one is an error.",
    )
    include: list[str] = _setting([], "Modules that define tasks, imported by the worker.")
    timezone: str = _setting("UTC", "Time zone of schedules and of naive `eta`/`expires` values.")
    enable_utc: bool = _setting(True, "Naive datetimes are UTC; otherwise they are in `timezone`.")
    aws_driver: str = _setting(
        "lean",
        "Who speaks to SQS and DynamoDB: `lean` (the hot calls without botocore's cost) or `boto3` (all calls).",
    )

    # queues and messages
    task_default_queue: str = _setting("cloudq", "Queue of tasks that nothing routes elsewhere.")
    task_routes: Any = _setting(
        None,
        "Where tasks go: a mapping of name or glob to queue (or `{'queue': ...}`), a function, or a list of these.",
    )
    task_queue_priorities: dict[str, Any] = _setting(
        {},
        "Sibling queues for `priority=`, highest first, the queue itself among them: `{'mail': ['-high', '', '-low']}`.",
    )
    task_default_priority: int | None = _setting(
        None, "Priority of calls that name none, 0 to 9 (highest). Default: the queue itself."
    )
    task_serializer: str = _setting("json", "Serializer of arguments: `json`, `msgpack`, `yaml`, `pickle`.")
    result_serializer: str = _setting("json", "Serializer of results.")
    accept_content: list[str] = _setting(
        ["json"], "Serializers whose content is read. `pickle` also needs signed messages."
    )
    task_compression: str | None = _setting(
        None, "Compression of arguments: `gzip`, `bzip2`, `zstd`, or none."
    )
    task_compression_threshold: int = _setting(
        16384, "Arguments smaller than this stay uncompressed.", "bytes"
    )
    broker_large_messages: str | None = _setting(
        None,
        "Where messages over the queue's limit are kept, like `s3://bucket/prefix`. Default: they are refused.",
    )
    broker_large_messages_over: int | None = _setting(
        None, "Messages larger than this are kept there. Default: the queue's own limit.", "bytes"
    )
    broker_large_messages_max: int = _setting(
        67_108_864, "Messages larger than this are refused, when sending and when reading.", "bytes"
    )
    broker_large_messages_expires: float = _setting(
        2_592_000.0, "How long a kept message may lie: two queues' retention and more.", "seconds"
    )
    broker_large_messages_also_read: list[str] = _setting(
        [], "Further places that messages may point to: the old one while you move, or another sender's."
    )
    security_keys: dict[str, Any] = _setting(
        {}, "Signing keys, id to key: the first that may signs, all that may verify. See docs/security.md."
    )
    security_key_file: str | None = _setting(
        None, "A file with more signing and encryption keys, made by `cloudq keys`; read once."
    )
    security_encryption_keys: dict[str, Any] = _setting(
        {},
        "Keys of AES-256-GCM, id to key: the first that may encrypts messages and results, all that may decrypt.",
    )
    security_sign_results: bool = _setting(False, "What is written to the results store is signed too.")
    security_required: bool = _setting(False, "Bury messages that carry no valid signature.")
    task_publish_retry: bool = _setting(True, "Try again when the broker is unavailable while publishing.")
    task_publish_retry_timeout: float = _setting(10.0, "How long a publish keeps trying.", "seconds")
    task_publish_joined: bool = _setting(True, "Calls made while another is being sent go out together.")

    # tasks
    task_acks_late: bool = _setting(
        True, "Delete the message after the task has been settled; False: before it runs (at most once)."
    )
    task_remember_workflows: bool = _setting(
        True,
        "Write what a workflow looks like to the backend when it is sent (one document), and keep the messages of "
        "its failed tasks in their records: for `cloudq result --tree`, `revoke(tree=True)` and `cloudq retry`.",
    )
    task_reject_on_worker_lost: bool = _setting(
        True,
        "A task whose process died is delivered again, up to the queue's redrive limit; False: it fails at once.",
    )
    task_ignore_result: bool = _setting(False, "Store no results unless a task says otherwise.")
    task_store_errors_even_if_ignored: bool = _setting(
        False, "Store failures of tasks that ignore their results."
    )
    task_track_started: bool = _setting(False, "Record STARTED when a task begins: one more write per task.")
    task_time_limit: float | None = _setting(None, "Hard limit of every task.", "seconds")
    task_soft_time_limit: float | None = _setting(None, "Soft limit of every task.", "seconds")
    task_allow_error_cb_on_chord_header: bool = _setting(
        False, "A chord's `link_error` is linked to the tasks of its header too, not only to its body."
    )
    task_always_eager: bool = _setting(False, "`delay()` runs the task at once, in this process.")
    task_eager_propagates: bool = _setting(False, "Eager tasks raise their errors in the caller.")
    task_store_eager_result: bool = _setting(False, "Eager tasks write their results to the backend as well.")
    task_dead_letter: bool = _setting(False, "Failed tasks are also copied to the dead-letter queue.")
    task_default_rate_limit: str | None = _setting(
        None, "Rate limit of every task that has none of its own: `100/m` (s, m, h, d)."
    )
    task_unique_expires: float = _setting(
        86400.0, "Longest that one call of a unique task keeps others from being sent.", "seconds"
    )
    task_lease_time: float = _setting(
        60.0,
        "How long what a running task holds in the results store (`max_concurrency`, `idempotent`) outlives a worker that died; "
        "renewed at a third of it.",
        "seconds",
    )

    # results
    result_expires: float | None = _setting(86400.0, "How long results are kept; None: for ever.", "seconds")
    result_exceptions: list[str] | None = _setting(None, "Modules whose exceptions results rebuild.")
    result_push: bool = _setting(
        False, "Finished tasks are announced through `result_push_queue`, so that waiting needs few reads."
    )
    result_push_queue: str | None = _setting(
        None, "An existing standard queue that only this process reads: where its tasks' ends are announced."
    )
    result_extended: bool = _setting(False, "Records also hold the task's name, arguments, worker and queue.")

    # workers
    worker_concurrency: int | None = _setting(
        None, "Tasks that run at once. Default: the number of cores (16 for threads)."
    )
    worker_pool: str = _setting("prefork", "Where tasks run: `solo`, `threads`, `prefork`, `asyncio`.")
    worker_queue_order: str = _setting(
        "fair",
        "Which queue gets a free place: `fair` (the one that holds least), `weighted` (least for its weight, "
        "`--queue a:3,b:1`), `strict` (the first that has messages).",
    )
    worker_prefetch_multiplier: float = _setting(
        1.0, "Messages held beyond the running ones, as a multiple of the concurrency. 0: none."
    )
    worker_max_tasks_per_child: int | None = _setting(
        None, "A prefork child is replaced after this many tasks."
    )
    worker_max_memory_per_child: int | None = _setting(
        None, "A prefork child that grew past this is replaced after its task.", "KiB"
    )
    worker_shutdown_timeout: float = _setting(30.0, "How long tasks may go on after the signal.", "seconds")
    worker_poll_patience: float = _setting(
        0.0, "How long a stopping worker with nothing else to do waits for its long polls.", "seconds"
    )
    worker_autoscale: str | None = _setting(None, "`MAX,MIN` tasks at once, as messages wait: `10,3`.")
    worker_signals_interval: float | None = _setting(
        None, "Between two looks at a queue's depth. Default: 15 in the cloud, 1 on this machine.", "seconds"
    )
    worker_health_port: int | None = _setting(None, "Serve `/healthz` and `/readyz` here. 0: any free port.")
    worker_health_host: str = _setting("127.0.0.1", "Address for `worker_health_port`; `0.0.0.0` for all.")
    worker_health_timeout: float = _setting(60.0, "Without a good poll for this long: unhealthy.", "seconds")
    worker_watch_interruption: bool | None = _setting(
        None,
        "Ask the instance metadata for spot interruptions and scale-in, and stop in time. Default: on EC2.",
    )
    worker_lifecycle_hook: str | None = _setting(None, "Hook of scale-in, `GROUP:HOOK`. Default: looked up.")
    worker_lost_wait: float = _setting(
        1.0, "Wait before a task whose process died is delivered again.", "seconds"
    )
    worker_visibility_timeout: float | None = _setting(
        None,
        "Invisibility asked for on receipt, renewed while the task runs. Default: the queue's own.",
        "seconds",
    )
    worker_wait_time: float = _setting(20.0, "Length of a long poll on an idle queue.", "seconds")
    worker_settle_timeout: float = _setting(
        300.0,
        "How long a finished task's result is retried while the store is unavailable, before the message is given back.",
        "seconds",
    )
    monitoring: str = _setting(
        "workers",
        "What workers write of themselves to the results store: `off`, `workers` (heartbeats, remote control), "
        "`tasks` (also events), `history` (also every task's end). See docs/monitoring.md for the cost.",
    )
    monitoring_redact: list[str] = _setting(
        ["password", "passwd", "secret", "token", "api_key", "authorization"],
        "Arguments whose names contain one of these are shown as `***` by inspect, events and history; `*`: all of them, and results.",
    )
    history_expires: float = _setting(604800.0, "How long history is kept (level `history`).", "seconds")
    worker_heartbeat_interval: float | None = _setting(
        None,
        "Between two signs of life: one write. Default: 30 in the cloud, 5 on a store of this machine.",
        "seconds",
    )
    control_interval: float | None = _setting(
        None,
        "How often a worker looks for revocations and commands: one read. Default: 15 in the cloud, 1 on a store of this machine.",
        "seconds",
    )
    control_namespace: str = _setting(
        "default", "Workers and callers that share a results store reach each other if this is the same."
    )
    revokes_expire: float = _setting(
        345600.0,
        "How long workers remember a revoked task. Default: how long SQS keeps a message.",
        "seconds",
    )
    task_check_revoked: bool = _setting(
        False,
        "Read a task's record before its first run, so that one revoked a moment ago does not start: one more read per task.",
    )
    worker_disable_rate_limits: bool = _setting(False, "This worker keeps to no rate limit.")

    # delays beyond the queue's own (docs/delays.md)
    delay_tier: str = _setting(
        "hop",
        "Who keeps what is due later than the queue can delay (SQS: 900 s): `hop` (the message is sent on again and "
        "again), or `scheduler` (EventBridge Scheduler; also delays on FIFO queues).",
    )
    scheduler_role_arn: str | None = _setting(
        None, "Role that EventBridge Scheduler assumes to send to the queues."
    )
    scheduler_group: str = _setting("default", "Schedule group that schedules are made in.")
    scheduler_dead_letter_arn: str | None = _setting(
        None, "ARN of the standard queue for what EventBridge Scheduler could not send."
    )

    # periodic tasks (docs/schedules.md)
    beat_schedule: Any = _setting(
        {}, "Periodic tasks, name to `{'task': ..., 'schedule': ..., 'args': ..., 'options': ...}`."
    )
    schedule_sync: bool = _setting(
        False,
        "Periodic tasks that EventBridge Scheduler can send are left to it (`cloudq schedule sync`); beat sends the rest.",
    )
    beat_lease: float = _setting(
        30.0, "How long a beat leads without a renewal: another takes over after at most this.", "seconds"
    )
    beat_max_loop_interval: float = _setting(
        5.0, "How often a leading beat looks for schedules changed at run time.", "seconds"
    )
    beat_catchup_limit: int = _setting(
        1000, "Most missed runs that an entry with `catchup='all'` makes up for at once; the newest are kept."
    )

    # functions in Lambda besides the one that runs tasks (docs/lambda.md)
    redrive_rules: Any = _setting(
        [],
        "Which dead letters `handlers.redrive` sends back, like `[{'queue': 'orders', 'older_than': '15m'}]`.",
    )
    api_tasks: list[str] = _setting([], "Tasks that the HTTP API sends, by name or glob; none by default.")
    api_auth: str | None = _setting(None, "Who may call the HTTP API: `iam` (AWS checks) or `hmac`.")
    api_keys: dict[str, str] = _setting({}, "Secrets of the HTTP API's callers, by key id.")
    api_max_body: int = _setting(262_144, "Longest request body of the HTTP API.", "bytes")
    api_rate_limit: str | None = _setting("10/s", "Requests that each caller of the HTTP API may make.")
    api_rate_limit_total: str | None = _setting("100/s", "Requests to the HTTP API by all callers.")

    worker_events_log: str | None = _setting(
        None, "Events on stdout: `json` lines, or `emf`: CloudWatch metrics by task and queue, once a minute."
    )
    worker_metrics_port: int | None = _setting(None, "Port to serve Prometheus on (extra `prometheus`).")
    worker_metrics_host: str = _setting("127.0.0.1", "Address that metrics are served on.")
    worker_log_format: str = _setting("text", "How the worker logs: `text`, or `json`: an object a line.")
    worker_hijack_root_logger: bool = _setting(True, "The worker sets up logging on the root logger.")

    def items(self) -> Iterator[tuple[str, Any]]:
        """(name, value) of every setting, in the order of the table."""
        for each in dataclasses.fields(self):
            yield each.name, getattr(self, each.name)


#: Name to declared type.
TYPES: dict[str, Any] = get_type_hints(Settings)
NAMES: tuple[str, ...] = tuple(TYPES)

#: Settings whose values are never shown.
SECRET: frozenset[str] = frozenset({"security_keys", "security_encryption_keys", "api_keys"})


def check(name: str, value: Any, *, text: bool = False) -> Any:
    """The value as its setting's type. ``text``: it came from the environment, so convert.

    Raises SettingError.
    """
    if name not in TYPES:
        raise SettingError(unknown(name))
    wanted = TYPES[name]
    try:
        return as_type(from_text(value, wanted) if text and isinstance(value, str) else value, wanted)
    except (TypeError, ValueError):
        got = type(value).__name__ if name in SECRET else repr(value)
        raise SettingError(f"setting {name}: {type_name(wanted)} expected, got {got}") from None


def unknown(name: str) -> str:
    """What to say of a name that is no setting."""
    return unknown_name(name, NAMES)


def reference() -> list[tuple[str, str, str, str, str]]:
    """(name, type, default, unit, meaning) of every setting, for the documentation."""
    defaults = Settings()
    return [
        (
            each.name,
            type_name(TYPES[each.name]),
            repr(getattr(defaults, each.name)),
            each.metadata["unit"],
            each.metadata["doc"],
        )
        for each in dataclasses.fields(Settings)
    ]
