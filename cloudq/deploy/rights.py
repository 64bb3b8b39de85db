"""What an app touches in an account, by ARN: read from its URLs, settings and queues, asking AWS nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cloudq.app import CloudQ
from cloudq.assembly import encryption_keys
from cloudq.brokers.base import dead_letter_name
from cloudq.deploy.iam import (
    BucketRights,
    GroupRights,
    KeyRights,
    QueueRights,
    Rights,
    ScheduleRights,
    TableRights,
)
from cloudq.errors import ImproperlyConfigured
from cloudq.security.keys import KMS
from cloudq.url import Url

_ACCOUNT: Final = re.compile(r"[0-9]{12}")
_PARTITIONS: Final = {"cn-": "aws-cn", "us-gov-": "aws-us-gov"}
_TIERS: Final = re.compile(r"\+(?=[a-z][a-z0-9.-]*://)")


@dataclass(frozen=True, slots=True)
class Place:
    """An account, its region where a URL names none, and customer-managed KMS keys by ARN (None: AWS's own)."""

    account: str
    region: str | None = None
    queues_key: str | None = None
    results_key: str | None = None

    def __post_init__(self) -> None:
        if not _ACCOUNT.fullmatch(self.account):
            raise ImproperlyConfigured(f"an AWS account is twelve digits, not {self.account!r}")

    def region_of(self, url: Url) -> str:
        """The URL's region, the one given, or the environment's. Raises ImproperlyConfigured."""
        found = (
            url.query.get("region")
            or self.region
            or os.environ.get("AWS_REGION")
            or os.environ.get("AWS_DEFAULT_REGION")
        )
        if not found:
            raise ImproperlyConfigured(
                f"no region for {url.scheme}://: put ?region= into the URL, or give --region or AWS_REGION"
            )
        return found


def partition_of(region: str) -> str:
    """``aws``, or the partition of China or GovCloud."""
    return next((name for prefix, name in _PARTITIONS.items() if region.startswith(prefix)), "aws")


def rights_of(
    app: CloudQ, queues: Sequence[str], place: Place, role: str = ""
) -> tuple[list[Rights], list[str]]:
    """What the app touches on AWS, and what of it is elsewhere (said in a line each).

    ``queues`` are names as the app says them; a dead-letter queue is assumed under cloudq's own name. For the
    role ``sync`` the schedule group belongs to it, however delays are kept.
    Raises ImproperlyConfigured when the broker is not SQS, or the schedules' role is wanted and not set.
    """
    broker = Url.parse(app.broker.url)
    if broker.scheme != "sqs":
        raise ImproperlyConfigured(
            f"the app's broker is {app.broker.url}: IAM policies are for sqs:// (give -A, --broker or CLOUDQ_BROKER_URL)"
        )
    rights: list[Rights] = [_queue(name, broker, place) for name in queues]
    elsewhere: list[str] = []
    backend = app.backend.url if app.backend is not None else ""
    stores = [*_TIERS.split(backend), app.conf.broker_large_messages or ""]
    for text in dict.fromkeys(each for each in stores if each):
        url = Url.parse(text)
        if url.scheme == "dynamodb":
            region = place.region_of(url)
            arn = f"arn:{partition_of(region)}:dynamodb:{region}:{place.account}:table/{url.host}"
            together = url.query.get("group_commit") == "true"
            rights.append(TableRights(arn, place.results_key, together))
        elif url.scheme == "s3":
            region = place.region_of(url)
            bucket = BucketRights(
                f"arn:{partition_of(region)}:s3:::{url.host}", url.path.strip("/"), place.results_key
            )
            if bucket not in rights:
                rights.append(bucket)
        else:
            elsewhere.append(f"{url.scheme}:// is not on AWS: its rights are given there")
    if role == "sync" and not app.conf.scheduler_role_arn:
        raise ImproperlyConfigured(
            "which role do the schedules send with? Set scheduler_role_arn: syncing passes it to them"
        )
    keeps = role in ("sync", "scheduler") or app.conf.delay_tier == "scheduler"
    if keeps and app.conf.scheduler_role_arn:
        region = place.region_of(broker)
        group = f"arn:{partition_of(region)}:scheduler:{region}:{place.account}:schedule-group/{app.conf.scheduler_group}"
        dead = app.conf.scheduler_dead_letter_arn
        rights.append(ScheduleRights(group, app.conf.scheduler_role_arn, dead))
    if app.conf.worker_lifecycle_hook:
        rights.append(_group(app.conf.worker_lifecycle_hook, place.region_of(broker), place.account))
    for key in encryption_keys(app.conf):
        if key.algorithm != KMS:
            continue
        if key.arn.startswith("arn:") and ":key/" in key.arn:
            rights.append(KeyRights(key.arn, key.reads, key.writes))
        else:
            elsewhere.append(
                f"the encryption key {key.id!r} is {key.arn!r}: a policy needs its ARN (arn:aws:kms:...:key/...)"
            )
    return rights, elsewhere


def _group(hook: str, region: str, account: str) -> GroupRights:
    name = hook.partition(":")[0]  # the star is a number that the group gets when it is made
    return GroupRights(
        f"arn:{partition_of(region)}:autoscaling:{region}:{account}:autoScalingGroup:*:autoScalingGroupName/{name}"
    )


def _queue(name: str, broker: Url, place: Place) -> QueueRights:
    region = place.region_of(broker)
    owner = broker.query.get("account") or place.account
    base = f"arn:{partition_of(region)}:sqs:{region}:{owner}:{broker.query.get('queue_name_prefix', '')}"
    return QueueRights(base + name, base + dead_letter_name(name), place.queues_key)
