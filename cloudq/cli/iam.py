"""``cloudq iam``: IAM policies with exact ARNs, for people without Terraform."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from cloudq.aws.factory import make_port
from cloudq.aws.port import Call
from cloudq.cli.common import (
    AppOption,
    BackendOption,
    BrokerOption,
    err,
    find_app,
    one_line_errors,
    out,
    queues_of,
)
from cloudq.deploy.iam import policy, trust
from cloudq.deploy.rights import Place, rights_of
from cloudq.url import Url


class Role(StrEnum):
    """Who the policy is for."""

    PUBLISHER = "publisher"
    WORKER = "worker"
    LAMBDA = "lambda"
    SCHEDULER = "scheduler"
    DASHBOARD = "dashboard"
    OPERATOR = "operator"
    REDRIVE = "redrive"
    API = "api"
    SYNC = "sync"


def iam(
    role: Annotated[
        Role,
        typer.Argument(
            help="publisher: calls tasks; worker: `cloudq worker`; lambda: the function; scheduler: what "
            "EventBridge Scheduler sends with; dashboard: only looks; operator: a dashboard with its actions, and the "
            "commands that look and steer; redrive, api: the functions of those "
            "handlers; sync: `cloudq schedule sync`."
        ),
    ],
    app: AppOption = None,
    queue: Annotated[
        list[str] | None, typer.Option("--queue", "-Q", help="Queues; default: the app's.")
    ] = None,
    account: Annotated[
        str | None,
        typer.Option(help="The AWS account's twelve digits; default: asks AWS whose credentials these are."),
    ] = None,
    region: Annotated[str | None, typer.Option(help="Where the URLs name no region.")] = None,
    queues_kms_key: Annotated[
        str | None,
        typer.Option(metavar="ARN", help="The customer-managed key of the queues, if they have one."),
    ] = None,
    results_kms_key: Annotated[
        str | None,
        typer.Option(metavar="ARN", help="The customer-managed key of table and bucket, if they have one."),
    ] = None,
    show_trust: Annotated[
        bool, typer.Option("--trust", help="Print who may assume the role (its trust policy) instead.")
    ] = False,
    broker: BrokerOption = None,
    result_backend: BackendOption = None,
) -> None:
    """Print a role's IAM policy: the same statements that the Terraform modules give out."""
    with one_line_errors():
        found = find_app(app, broker, result_backend)
        names = [each.strip() for part in queue or [] for each in part.split(",") if each.strip()]
        place = Place(account or _account(found.broker.url, region), region, queues_kms_key, results_kms_key)
        rights, elsewhere = rights_of(found, names or queues_of(found), place, role)
        for each in elsewhere:
            err.print(f"note: {each}", markup=False)
        if show_trust:
            where = place.region_of(Url.parse(found.broker.url))
            document = trust(role, place.account, where, found.conf.scheduler_group)
        else:
            document = policy(role, rights)
        out.print_json(data=document, indent=2)


def _account(broker_url: str, region: str | None) -> str:
    url = Url.parse(broker_url)
    port = make_port(
        url.query.get("region") or region, url.query.get("endpoint_url"), url.query.get("profile"), "boto3"
    )
    answer = port.call(Call("sts", "GetCallerIdentity", {}))
    return str(answer["Account"])
