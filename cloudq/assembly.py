"""Putting an app's parts together: broker, store, codec, producer, lifecycle.

Apart from the app so that importing cloudq and declaring tasks stays light: all of this is loaded
when a process first publishes, waits or works (see ``benchmarks/import_time.py``).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cloudq.aws.factory import DRIVERS, make_port
from cloudq.backends.base import ResultBackend
from cloudq.backends.open import open_backend
from cloudq.brokers.base import Broker
from cloudq.brokers.claimcheck import ClaimCheck, open_place
from cloudq.brokers.open import open_broker
from cloudq.clock import Clock
from cloudq.conf import Conf
from cloudq.control.control import Control
from cloudq.errors import ImproperlyConfigured
from cloudq.hooks import Hooks
from cloudq.producer import Producer
from cloudq.registry import Registry
from cloudq.results import failure, push
from cloudq.results.handle import Results
from cloudq.results.poller import Poller
from cloudq.results.store import ResultStore
from cloudq.security.encryption import Sealer
from cloudq.security.keys import AES, Key, read_key, read_key_file
from cloudq.security.kms import KmsKeys
from cloudq.security.signing import KeyRing
from cloudq.serializers.codec import Codec
from cloudq.shared import Shared

if TYPE_CHECKING:
    from cloudq.monitoring.history import History
    from cloudq.monitoring.receiver import Events  # who only publishes runs nothing
    from cloudq.runtime.inline import Inline
    from cloudq.runtime.lifecycle import Lifecycle

#: One file for both, when nobody says otherwise: real across processes, for one machine.
EMBEDDED: Final = "sqlite:///.cloudq/cloudq.db"

Defaults = Callable[[str], Mapping[str, Any]]


def broker_of(conf: Conf, clock: Clock) -> Broker:
    """The broker that the settings name."""
    url = conf.broker_url or _embedded(conf, "broker_url", "CLOUDQ_BROKER_URL", "sqs://?region=eu-west-1")
    conf.seal("broker_url", "the broker is open already; close the app first")
    return open_broker(url, clock, _driver(conf))


def backend_of(conf: Conf, clock: Clock) -> ResultBackend | None:
    """The results store that the settings name, or None for ``disabled://``."""
    url = conf.result_backend
    if url is not None and url.startswith("disabled://"):
        return None
    url = url or _embedded(conf, "result_backend", "CLOUDQ_RESULT_BACKEND", "dynamodb://cloudq-results")
    conf.seal("result_backend", "the results store is open already; close the app first")
    return open_backend(url, clock, _driver(conf))


def _embedded(conf: Conf, setting: str, variable: str, example: str) -> str:
    if conf.env == "production" or "AWS_LAMBDA_FUNCTION_NAME" in os.environ:
        where = "in production" if conf.env == "production" else "inside Lambda"
        raise ImproperlyConfigured(
            f"{setting} is not set, and there is no default {where}: set {variable}, for example to {example}"
        )
    return EMBEDDED


def _driver(conf: Conf) -> str | None:
    """What is to be said in the URLs; None: nothing, the default."""
    return None if conf.aws_driver == DRIVERS[0] else conf.aws_driver


def claims_of(conf: Conf, clock: Clock) -> ClaimCheck | None:
    """Where the settings keep large messages, or None when they name no place."""
    for name in ("broker_large_messages", "broker_large_messages_also_read"):
        conf.seal(name, "messages are being written already; close the app first")
    if conf.broker_large_messages_over is not None and conf.broker_large_messages_over < 1:
        raise ImproperlyConfigured("broker_large_messages_over is a number of bytes, at least 1")
    if conf.broker_large_messages is None:
        for name in ("broker_large_messages_over", "broker_large_messages_also_read"):
            if getattr(conf, name):
                raise ImproperlyConfigured(f"{name} needs broker_large_messages, the place to keep them")
        return None
    places = [conf.broker_large_messages, *conf.broker_large_messages_also_read]
    return ClaimCheck(
        [open_place(url, clock, _driver(conf)) for url in places],
        most=conf.broker_large_messages_max,
        expires=conf.broker_large_messages_expires,
        clock=clock,
    )


def codec_of(conf: Conf, clock: Clock, claims: ClaimCheck | None) -> Codec:
    """How the settings want messages and results written."""
    for name in (
        "task_serializer",
        "result_serializer",
        "accept_content",
        "security_keys",
        "security_key_file",
        "security_encryption_keys",
        "security_required",
    ):
        conf.seal(name, "messages are being written already; close the app first")
    return Codec(
        serializer=conf.task_serializer,
        result_serializer=conf.result_serializer,
        accept_content=tuple(conf.accept_content),
        compression=conf.task_compression,
        compression_threshold=conf.task_compression_threshold,
        keys=_keys(conf, "signing"),
        sealer=sealer_of(conf, clock),
        security_required=conf.security_required,
        payloads=claims,
        clock=clock,
    )


def _keys(conf: Conf, kind: str) -> dict[str, Any]:
    """The keys of the settings, then those of the key file."""
    given = conf.security_keys if kind == "signing" else conf.security_encryption_keys
    if conf.security_key_file is None:
        return dict(given)
    return {**read_key_file(Path(conf.security_key_file).expanduser())[kind], **given}


def encryption_keys(conf: Conf) -> list[Key]:
    """What encrypts and decrypts, by settings and key file. Raises ImproperlyConfigured."""
    return [read_key(name, given, AES) for name, given in _keys(conf, "encryption").items()]


def sealer_of(conf: Conf, clock: Clock) -> Sealer | None:
    """What encrypts messages and results, or None."""
    keys = _keys(conf, "encryption")
    if not keys:
        return None
    # Credentials, region and endpoint of KMS are AWS's defaults: AWS_ENDPOINT_URL_KMS and the like count.
    return Sealer(keys, KmsKeys(make_port(), clock), clock)


def sealed(backend: ResultBackend | None, conf: Conf, clock: Clock) -> ResultBackend | None:
    """The store as the settings want its values: encrypted, signed, or as they are."""
    if backend is None:
        return None
    sealer = sealer_of(conf, clock)
    ring = KeyRing(_keys(conf, "signing"), clock) if conf.security_sign_results else None
    if ring is not None and not ring:
        raise ImproperlyConfigured("security_sign_results needs security_keys")
    if sealer is None and ring is None:
        return backend
    from cloudq.backends.sealed import SealedBackend

    conf.seal("security_sign_results", "the results store is open already; close the app first")
    return SealedBackend(backend, sealer=sealer, ring=ring, required=conf.security_required, clock=clock)


def store_of(
    backend: ResultBackend | None, codec: Codec, conf: Conf, clock: Clock, tasks: Registry
) -> ResultStore | None:
    """Task records on the backend."""
    if backend is None:
        return None
    accept = failure.only_of(partial(accepted_exceptions, conf, tasks))
    return ResultStore(
        backend, codec.pack, codec.unpack, expires=conf.result_expires, clock=clock, accept=accept
    )


def accepted_exceptions(conf: Conf, tasks: Registry) -> Iterable[str]:
    """Of which modules and packages exceptions in results are rebuilt (setting ``result_exceptions``)."""
    named: list[str] | None = conf.result_exceptions
    if named is not None:
        return named
    if not conf.security_required:
        return ("*",)
    own = (str(tasks[name].__module__).partition(".")[0] for name in tasks)
    return {"cloudq", *sys.stdlib_module_names, *own}


def poller_of(store: ResultStore, broker: Callable[[], Broker], conf: Conf) -> Poller:
    """What every ``get()`` of a process waits with."""
    poller = Poller(store.read_each)
    queue = push.reply_queue(conf)
    if queue is not None:
        poller.listen_with(push.Listener(broker, queue, poller))
    return poller


def producer_of(
    broker: Callable[[], Broker],
    codec: Codec,
    conf: Conf,
    hooks: Hooks,
    defaults: Defaults,
    clock: Clock,
    claims: ClaimCheck | None,
) -> Producer:
    """What publishes."""
    return Producer(broker, codec, conf, hooks, defaults, clock, claims)


def control_of(
    store: ResultStore, conf: Conf, clock: Clock, unschedule: Callable[[str, Iterable[int]], bool]
) -> Control:
    """Remote control; ``unschedule`` deletes what EventBridge was to send (``Producer.unschedule``)."""
    return Control(store, conf, clock, unschedule)


def history_of(store: ResultStore, conf: Conf, clock: Clock) -> History:
    """The ends of tasks."""
    from cloudq.monitoring.history import History

    about = (conf.control_namespace, clock, conf.history_expires)
    return History(store.backend, *about, store.read)


def events_of(store: ResultStore, conf: Conf, clock: Clock) -> Events:
    """What workers tell."""
    from cloudq.monitoring.receiver import Events

    return Events(store.backend, conf.control_namespace, clock)


def lifecycle_of(
    *,
    registry: Registry,
    codec: Codec,
    store: ResultStore | None,
    producer: Producer,
    broker: Callable[[], Broker],
    conf: Conf,
    hooks: Hooks,
    clock: Clock,
    hostname: str,
    claims: ClaimCheck | None = None,
) -> Lifecycle:
    """What runs deliveries."""
    from cloudq.runtime.admission import Admission
    from cloudq.runtime.follow import Follower
    from cloudq.runtime.lifecycle import Lifecycle
    from cloudq.runtime.patience import Patience
    from cloudq.runtime.settle import Settler
    from cloudq.workflows.launch import launcher_of

    admission = Admission(store, clock, conf)
    admission.check(registry)
    patience = Patience(conf.worker_settle_timeout, clock)
    follower = Follower(launcher_of(producer, store, conf, clock, registry), store, Shared())
    return Lifecycle(
        registry=registry,
        codec=codec,
        store=store,
        broker=broker,
        settler=Settler(store, producer, conf, hooks, clock, hostname, patience, follower, producer.post),
        conf=conf,
        hooks=hooks,
        clock=clock,
        hostname=hostname,
        patience=patience,
        admission=admission,
        claims=claims,
    )


def inline_of(
    registry: Registry,
    codec: Codec,
    conf: Conf,
    hooks: Hooks,
    defaults: Defaults,
    clock: Clock,
    results: Results,
) -> Inline:
    """What runs calls here and now."""
    from cloudq.runtime.inline import Inline

    return Inline(registry, codec, conf, hooks, defaults, clock, results)


def run_inline(
    run: Callable[[Inline], Any], inline: Inline, conf: Conf, store: Callable[[], ResultStore | None]
) -> Any:
    """Run, and do with the result what the settings say of eager ones."""
    try:
        result = run(inline)
    finally:
        inline.close()
    if conf.task_store_eager_result and (kept := store()) is not None:
        for record in inline.ended.records.values():
            kept.finish(record)
    if conf.task_eager_propagates and result is not None:
        result.get()
    return result
