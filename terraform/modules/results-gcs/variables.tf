variable "bucket_name" {
  description = "Name of the bucket: unique in all of Google Cloud."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]$", var.bucket_name))
    error_message = "bucket_name is 3 to 63 lowercase letters, digits, hyphens, underscores and dots."
  }
}

variable "project" {
  description = "The Google Cloud project's id."
  type        = string
}

variable "location" {
  description = "Where the bucket is: a region such as europe-west1 near the workers, or a multi-region such as EU."
  type        = string
}

variable "prefix" {
  description = "Folder of the results in the bucket."
  type        = string
  default     = "cloudq"

  validation {
    condition     = can(regex("^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$", var.prefix))
    error_message = "prefix is a folder such as cloudq or cloudq/results, without a slash at either end."
  }
}

variable "expire_after_days" {
  description = "Days after which objects are deleted; longer than result_expires."
  type        = number
  default     = 30

  validation {
    condition     = var.expire_after_days >= 1
    error_message = "expire_after_days is at least 1."
  }
}

variable "versioning" {
  description = "Keep what was overwritten or deleted, for a week."
  type        = bool
  default     = false
}

variable "kms_key_name" {
  description = "A customer-managed Cloud KMS key (projects/P/locations/L/keyRings/R/cryptoKeys/K); none: Google's own keys."
  type        = string
  default     = null
}

variable "members" {
  description = "Who runs workers or calls tasks, besides the service account made here, e.g. a principalSet of workload identity federation for AWS."
  type        = list(string)
  default     = []

  validation {
    condition     = length(setintersection(["allUsers", "allAuthenticatedUsers"], var.members)) == 0
    error_message = "members: allUsers and allAuthenticatedUsers would make results public."
  }
}

variable "workload_identity_members" {
  description = "Principals that may act as the service account (roles/iam.workloadIdentityUser), e.g. an AWS role through a workload identity pool."
  type        = list(string)
  default     = []
}

variable "service_account_id" {
  description = "Id of the service account to make: 6 to 30 lowercase letters, digits and hyphens."
  type        = string
  default     = "cloudq-results"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.service_account_id))
    error_message = "service_account_id is 6 to 30 lowercase letters, digits and hyphens, beginning with a letter."
  }
}

variable "force_destroy" {
  description = "Let `terraform destroy` delete the results too."
  type        = bool
  default     = false
}

variable "labels" {
  description = "Labels of the bucket."
  type        = map(string)
  default     = {}
}
