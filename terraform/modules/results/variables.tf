variable "table_name" {
  description = "Name of the DynamoDB table."
  type        = string
  default     = "cloudq-results"

  validation {
    condition     = can(regex("^[A-Za-z0-9_.-]{3,255}$", var.table_name))
    error_message = "table_name is 3 to 255 letters, digits, hyphens, underscores and dots."
  }
}

variable "point_in_time_recovery" {
  description = "Continuous backups of the last 35 days."
  type        = bool
  default     = true
}

variable "deletion_protection" {
  description = "Refuse to delete the table, `terraform destroy` included."
  type        = bool
  default     = true
}

variable "kms_key_arn" {
  description = "A customer-managed KMS key for the table (and the bucket). Without it: DynamoDB's AWS-managed key and SSE-S3."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_arn == null || can(regex("^arn:[^:]+:kms:[^:]+:[0-9]{12}:key/.+$", var.kms_key_arn))
    error_message = "kms_key_arn is a key's ARN (arn:aws:kms:REGION:ACCOUNT:key/ID): policies name exact ARNs, so an alias or an id will not do."
  }
}

variable "group_commit" {
  description = "Workers write results that are ready at once in one request: adds group_commit=true to the environment's URL and dynamodb:PartiQLInsert to the policies."
  type        = bool
  default     = false
}

variable "bucket" {
  description = "An S3 bucket for large results beside the table. expire_after_days must outlive result_expires."
  type = object({
    name                     = string
    prefix                   = optional(string, "cloudq")
    expire_after_days        = optional(number, 30)
    versioning               = optional(bool, false)
    noncurrent_after_days    = optional(number, 7)
    access_logs              = optional(object({ bucket = string, prefix = optional(string) }))
    force_destroy            = optional(bool, false)
    abort_uploads_after_days = optional(number, 1)
  })
  default = null

  validation {
    condition     = var.bucket == null || can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", var.bucket.name))
    error_message = "bucket.name is 3 to 63 lowercase letters, digits, hyphens and dots."
  }

  validation {
    condition     = var.bucket == null || can(regex("^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$", var.bucket.prefix))
    error_message = "bucket.prefix is a folder such as cloudq or cloudq/results, without a slash at either end."
  }

  validation {
    condition     = var.bucket == null || try(var.bucket.expire_after_days >= 1 && var.bucket.noncurrent_after_days >= 1 && var.bucket.abort_uploads_after_days >= 1, false)
    error_message = "bucket: expire_after_days, noncurrent_after_days and abort_uploads_after_days are at least 1."
  }
}

variable "tags" {
  description = "Tags of everything this module makes."
  type        = map(string)
  default     = {}
}
