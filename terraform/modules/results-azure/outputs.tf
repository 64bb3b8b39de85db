output "environment" {
  description = "CLOUDQ_* variables of an app that keeps its results here."
  value = {
    CLOUDQ_RESULT_BACKEND = "azureblob://${azurerm_storage_container.this.name}/${var.prefix}?account_url=${urlencode(azurerm_storage_account.this.primary_blob_endpoint)}"
  }
}

output "account_url" {
  description = "The account's blob endpoint."
  value       = azurerm_storage_account.this.primary_blob_endpoint
}

output "container_name" {
  description = "The container's name."
  value       = azurerm_storage_container.this.name
}

output "identity_client_id" {
  description = "Client id of the identity of workers and publishers (AZURE_CLIENT_ID)."
  value       = azurerm_user_assigned_identity.this.client_id
}

output "identity_id" {
  description = "Resource id of that identity, for federated credentials."
  value       = azurerm_user_assigned_identity.this.id
}
