variable "storage_account_name" {
  description = "Name of the storage account: unique in all of Azure."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9]{3,24}$", var.storage_account_name))
    error_message = "storage_account_name is 3 to 24 lowercase letters and digits."
  }
}

variable "resource_group_name" {
  description = "The resource group, which exists."
  type        = string
}

variable "location" {
  description = "The Azure region, e.g. westeurope, near the workers."
  type        = string
}

variable "container_name" {
  description = "Name of the container."
  type        = string
  default     = "cloudq"

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{1,61})[a-z0-9]$", var.container_name)) && !strcontains(var.container_name, "--")
    error_message = "container_name is 3 to 63 lowercase letters, digits and single hyphens."
  }
}

variable "prefix" {
  description = "Folder of the results in the container."
  type        = string
  default     = "results"

  validation {
    condition     = can(regex("^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$", var.prefix))
    error_message = "prefix is a folder such as results or shop/results, without a slash at either end."
  }
}

variable "expire_after_days" {
  description = "Days after which blobs are deleted; longer than result_expires."
  type        = number
  default     = 30

  validation {
    condition     = var.expire_after_days >= 1
    error_message = "expire_after_days is at least 1."
  }
}

variable "replication_type" {
  description = "How the account is replicated."
  type        = string
  default     = "ZRS"

  validation {
    condition     = contains(["LRS", "ZRS", "GRS", "GZRS", "RAGRS", "RAGZRS"], var.replication_type)
    error_message = "replication_type is LRS, ZRS, GRS, GZRS, RAGRS or RAGZRS."
  }
}

variable "principal_ids" {
  description = "Object ids of further principals that run workers or call tasks, by a name of your choice."
  type        = map(string)
  default     = {}
}

variable "public_network_access" {
  description = "Reachable from outside of Azure, as workers on AWS need it; access is by identity all the same."
  type        = bool
  default     = true
}

variable "allowed_ips" {
  description = "If given, only these public addresses or ranges reach the account: your NAT gateways, for example."
  type        = list(string)
  default     = []
}

variable "tags" {
  description = "Tags of everything this module makes."
  type        = map(string)
  default     = {}
}
