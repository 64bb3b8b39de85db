"""Google's and Azure's modules use only blocks and arguments that their providers' documentation lists.

Those providers are on no machine that runs these tests, so this stands in for ``terraform validate``.
Sources: website/docs/r/ of hashicorp/terraform-provider-google and -azurerm.
"""

from pathlib import Path
from typing import Any

import hcl2
import pytest
from terraform_cli import MODULES, OTHER_CLOUDS

#: Every resource's arguments; a block is a mapping of its own, Terraform's own words apart.
DOCUMENTED: dict[str, dict[str, Any]] = {
    "google_storage_bucket": {
        **dict.fromkeys(
            ["name", "location", "force_destroy", "project", "storage_class", "labels", "requester_pays", "rpo", "uniform_bucket_level_access", "public_access_prevention", "default_event_based_hold"]
        ),
        "versioning": {"enabled": None},
        "soft_delete_policy": {"retention_duration_seconds": None},
        "encryption": {"default_kms_key_name": None},
        "logging": {"log_bucket": None, "log_object_prefix": None},
        "lifecycle_rule": {
            "action": {"type": None, "storage_class": None},
            "condition": dict.fromkeys(
                ["age", "created_before", "with_state", "matches_storage_class", "matches_prefix", "matches_suffix", "num_newer_versions", "days_since_noncurrent_time", "noncurrent_time_before"]
            ),
        },
    },
    "google_service_account": dict.fromkeys(["account_id", "project", "display_name", "description", "disabled"]),
    "google_storage_bucket_iam_member": {"bucket": None, "role": None, "member": None, "condition": {}},
    "google_service_account_iam_member": {"service_account_id": None, "role": None, "member": None, "condition": {}},
    "azurerm_storage_account": {
        **dict.fromkeys(
            ["name", "resource_group_name", "location", "account_kind", "account_tier", "account_replication_type", "min_tls_version", "https_traffic_only_enabled", "allow_nested_items_to_be_public", "shared_access_key_enabled", "tags", "default_to_oauth_authentication", "public_network_access_enabled"]
        ),
        "network_rules": dict.fromkeys(["default_action", "bypass", "ip_rules", "virtual_network_subnet_ids"]),
    },
    "azurerm_storage_container": dict.fromkeys(["name", "storage_account_id", "container_access_type", "metadata"]),
    "azurerm_storage_management_policy": {
        "storage_account_id": None,
        "rule": {
            "name": None,
            "enabled": None,
            "filters": {"blob_types": None, "prefix_match": None},
            "actions": {"base_blob": {"delete_after_days_since_modification_greater_than": None}},
        },
    },
    "azurerm_user_assigned_identity": dict.fromkeys(["name", "resource_group_name", "location", "tags"]),
    "azurerm_role_assignment": dict.fromkeys(
        ["name", "scope", "role_definition_id", "role_definition_name", "principal_id", "principal_type", "description"]
    ),
}  # fmt: skip
#: What the documentation calls required.
REQUIRED = {
    "google_storage_bucket": {"name", "location"},
    "google_service_account": {"account_id"},
    "google_storage_bucket_iam_member": {"bucket", "role", "member"},
    "google_service_account_iam_member": {"service_account_id", "role", "member"},
    "azurerm_storage_account": {
        "name",
        "resource_group_name",
        "location",
        "account_tier",
        "account_replication_type",
    },
    "azurerm_storage_container": {"name", "storage_account_id"},
    "azurerm_storage_management_policy": {"storage_account_id"},
    "azurerm_user_assigned_identity": {"name", "resource_group_name", "location"},
    "azurerm_role_assignment": {"scope", "principal_id"},
}
TERRAFORMS_OWN = {
    "for_each",
    "count",
    "depends_on",
    "lifecycle",
    "provider",
    "__is_block__",
    "__comments__",
    "__inline_comments__",
}


def unknown(body: dict[str, Any], documented: dict[str, Any], where: str) -> list[str]:
    """Arguments and blocks that are not documented, by their path."""
    found: list[str] = []
    for name, value in body.items():
        if name == "dynamic":
            for each in value:
                for block, inner in each.items():
                    content = inner["content"][0]
                    found += unknown({block.strip('"'): [content]}, documented, where)
        elif name in TERRAFORMS_OWN:
            continue
        elif name not in documented:
            found.append(f"{where}.{name}")
        elif isinstance(documented[name], dict):
            for block in value:
                found += unknown(block, documented[name], f"{where}.{name}")
    return found


@pytest.mark.parametrize("name", sorted(OTHER_CLOUDS))
def test_a_module_uses_documented_arguments_only(name: str) -> None:
    resources = parsed(MODULES / name / "main.tf").get("resource", [])
    assert len(resources) >= 4
    for each in resources:
        for quoted, named in each.items():
            kind = quoted.strip('"')
            for title, body in named.items():
                assert unknown(body, DOCUMENTED[kind], f"{kind}.{title}") == []
                assert REQUIRED[kind] <= set(body)


def test_an_undocumented_argument_is_seen() -> None:
    body = {"name": "x", "colour": "red", "lifecycle_rule": [{"action": [{"kind": "Delete"}]}]}
    assert unknown(body, DOCUMENTED["google_storage_bucket"], "b") == [
        "b.colour",
        "b.lifecycle_rule.action.kind",
    ]


def parsed(file: Path) -> dict[str, Any]:
    with file.open() as text:
        found: dict[str, Any] = hcl2.load(text)  # type: ignore[no-untyped-call]
    return found
