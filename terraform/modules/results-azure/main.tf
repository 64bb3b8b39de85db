# Results in Azure Blob Storage: a private container that empties itself, and an identity that may use it and nothing else.

resource "azurerm_storage_account" "this" {
  #checkov:skip=CKV2_AZURE_1:Microsoft's keys encrypt by default; a customer-managed key needs a vault that is not this module's.
  #checkov:skip=CKV2_AZURE_33:Workers on AWS come from outside; allowed_ips or public_network_access = false restrict it where they do not.
  #checkov:skip=CKV2_AZURE_38:Results are written once and expire: there is nothing to undelete.
  #checkov:skip=CKV_AZURE_206:replication_type is ZRS, three copies in three zones; the check knows only geographic replication.
  #checkov:skip=CKV_AZURE_33:The account's queues are not used.
  #checkov:skip=CKV_AZURE_59:No blob can be public (allow_nested_items_to_be_public is false); public_network_access is the user's choice.
  name                            = var.storage_account_name
  resource_group_name             = var.resource_group_name
  location                        = var.location
  account_kind                    = "StorageV2"
  account_tier                    = "Standard"
  account_replication_type        = var.replication_type
  min_tls_version                 = "TLS1_2"
  https_traffic_only_enabled      = true
  allow_nested_items_to_be_public = false
  shared_access_key_enabled       = false # identities only
  default_to_oauth_authentication = true
  public_network_access_enabled   = var.public_network_access
  tags                            = var.tags

  dynamic "network_rules" {
    for_each = length(var.allowed_ips) > 0 ? [var.allowed_ips] : []
    content {
      default_action = "Deny"
      bypass         = ["AzureServices"]
      ip_rules       = network_rules.value
    }
  }
}

resource "azurerm_storage_container" "this" {
  #checkov:skip=CKV2_AZURE_21:A log entry for each read of each result costs more than the reads.
  name                  = var.container_name
  storage_account_id    = azurerm_storage_account.this.id
  container_access_type = "private"
}

resource "azurerm_storage_management_policy" "this" {
  storage_account_id = azurerm_storage_account.this.id

  rule {
    name    = "expire"
    enabled = true

    filters {
      blob_types   = ["blockBlob"]
      prefix_match = ["${var.container_name}/${var.prefix}/"]
    }

    actions {
      base_blob {
        delete_after_days_since_modification_greater_than = var.expire_after_days
      }
    }
  }
}

resource "azurerm_user_assigned_identity" "this" {
  name                = "${var.storage_account_name}-cloudq"
  resource_group_name = var.resource_group_name
  location            = var.location
  tags                = var.tags
}

# Blobs of this container only.
resource "azurerm_role_assignment" "identity" {
  scope                = azurerm_storage_container.this.resource_manager_id
  role_definition_name = "Storage Blob Data Contributor"
  principal_id         = azurerm_user_assigned_identity.this.principal_id
  principal_type       = "ServicePrincipal"
}

resource "azurerm_role_assignment" "more" {
  for_each = var.principal_ids

  scope                = azurerm_storage_container.this.resource_manager_id
  role_definition_name = "Storage Blob Data Contributor"
  principal_id         = each.value
}
