variable "name" {
  description = "Name of the function; role, log group and alarms are named after it."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9_-]{1,58}$", var.name))
    error_message = "name is 1 to 58 letters, digits, hyphens and underscores (a role's name has 64, -lambda takes some)."
  }
}

variable "package" {
  description = "The zip that `cloudq package` built: a local file, or an object in S3 with the file's base64 SHA-256."
  type = object({
    filename          = optional(string)
    s3_bucket         = optional(string)
    s3_key            = optional(string)
    s3_object_version = optional(string)
    source_code_hash  = optional(string)
  })

  validation {
    condition     = (var.package.filename != null) != (var.package.s3_bucket != null)
    error_message = "package is either filename = \"dist/app.zip\" (at most 50 MB), or s3_bucket and s3_key."
  }

  validation {
    condition     = (var.package.s3_bucket != null) == (var.package.s3_key != null)
    error_message = "package: s3_bucket and s3_key go together."
  }
}

variable "app" {
  description = "The app in the package, MODULE:APP: becomes CLOUDQ_APP."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$", var.app))
    error_message = "app is MODULE:APP, as in `cloudq worker -A MODULE:APP`, e.g. shop.tasks:app."
  }
}

variable "handler" {
  description = "The function in the package that Lambda calls: handlers.consume.handler, handlers.beat.handler, or your own."
  type        = string
  default     = "handlers.consume.handler"
}

variable "runtime" {
  description = "Lambda's Python."
  type        = string
  default     = "python3.13"

  validation {
    condition     = can(regex("^(python3\\.(1[1-9])|provided\\.al2023)$", var.runtime))
    error_message = "runtime is python3.11 or later, the one that `cloudq package` built for."
  }
}

variable "architecture" {
  description = "x86_64, or arm64 (a fifth cheaper): the one that `cloudq package` built for."
  type        = string
  default     = "x86_64"

  validation {
    condition     = contains(["x86_64", "arm64"], var.architecture)
    error_message = "architecture is x86_64 or arm64."
  }
}

variable "memory_size" {
  description = "Megabytes; CPU grows with it, 1769 is one full core."
  type        = number
  default     = 512

  validation {
    condition     = var.memory_size >= 128 && var.memory_size <= 10240
    error_message = "memory_size is 128 to 10240 MB."
  }
}

variable "ephemeral_storage" {
  description = "Megabytes of /tmp."
  type        = number
  default     = 512

  validation {
    condition     = var.ephemeral_storage >= 512 && var.ephemeral_storage <= 10240
    error_message = "ephemeral_storage is 512 to 10240 MB."
  }
}

variable "timeout" {
  description = "Seconds an invocation, that is a batch, may take. Queues need six times as much visibility."
  type        = number
  default     = 60

  validation {
    condition     = var.timeout >= 1 && var.timeout <= 900
    error_message = "timeout is 1 to 900 seconds; longer tasks belong on ec2-worker or ecs-worker."
  }
}

variable "queues" {
  description = "Queues to consume, by a name of your choice: `queue` is the queue module's output of that name."
  type = map(object({
    queue = object({
      name                       = string
      arn                        = string
      fifo                       = bool
      visibility_timeout_seconds = number
      sqs_name                   = optional(string)
      max_receive_count          = optional(number)
    })
    batch_size                         = optional(number, 10)
    maximum_batching_window_in_seconds = optional(number, 0)
    maximum_concurrency                = optional(number)
    provisioned_pollers                = optional(object({ minimum = optional(number), maximum = optional(number) }))
    enabled                            = optional(bool, true)
  }))
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for each in var.queues : each.maximum_concurrency == null || each.provisioned_pollers == null])
    error_message = "queues: maximum_concurrency and provisioned_pollers exclude each other (a rule of AWS Lambda): set one or neither."
  }

  validation {
    condition     = alltrue([for each in var.queues : each.maximum_concurrency == null || try(each.maximum_concurrency >= 2 && each.maximum_concurrency <= 1000, false)])
    error_message = "queues: maximum_concurrency is 2 to 1000."
  }

  validation {
    condition = alltrue([for each in var.queues : each.provisioned_pollers == null || try(
      coalesce(each.provisioned_pollers.minimum, 2) >= 2 && coalesce(each.provisioned_pollers.minimum, 2) <= 200 &&
    coalesce(each.provisioned_pollers.maximum, 200) >= coalesce(each.provisioned_pollers.minimum, 2) && coalesce(each.provisioned_pollers.maximum, 200) <= 2000, false)])
    error_message = "queues: provisioned_pollers.minimum is 2 to 200, maximum at least the minimum and at most 2000."
  }

  validation {
    condition     = alltrue([for each in var.queues : each.batch_size >= 1 && each.batch_size <= (each.queue.fifo ? 10 : 10000)])
    error_message = "queues: batch_size is 1 to 10000 on a standard queue, 1 to 10 on a FIFO queue."
  }

  validation {
    condition     = alltrue([for each in var.queues : each.maximum_batching_window_in_seconds >= 0 && each.maximum_batching_window_in_seconds <= (each.queue.fifo ? 0 : 300)])
    error_message = "queues: maximum_batching_window_in_seconds is 0 to 300; FIFO queues have no window."
  }

  validation {
    condition     = alltrue([for each in var.queues : each.batch_size <= 10 || each.maximum_batching_window_in_seconds >= 1])
    error_message = "queues: a batch_size over 10 needs maximum_batching_window_in_seconds of at least 1 (a rule of AWS Lambda)."
  }
}

variable "environment" {
  description = "Environment variables: merge the `environment` outputs of queue, results and schedule, and add your own."
  type        = map(string)
  default     = {}

  validation {
    condition     = length(setintersection(["CLOUDQ_APP"], keys(var.environment))) == 0
    error_message = "environment: CLOUDQ_APP is set by `app`."
  }
}

variable "policies" {
  description = "IAM policy documents (JSON) of what the function uses: the `policies[\"lambda\"]` outputs of queue and results, and your own."
  type        = list(string)
  default     = []
}

variable "reserved_concurrency" {
  description = "Most invocations at once, taken out of the account's pool; none by default. Prefer maximum_concurrency, which does not throttle."
  type        = number
  default     = null

  validation {
    condition     = var.reserved_concurrency == null || try(var.reserved_concurrency >= 5, false)
    error_message = "reserved_concurrency is at least 5: the pollers of one queue start with five batches, and throttled ones burn receives."
  }
}

variable "vpc" {
  description = "Subnets and security groups, when tasks reach things in a VPC. SQS, DynamoDB and logs then need endpoints or a NAT."
  type        = object({ subnet_ids = list(string), security_group_ids = list(string) })
  default     = null
}

variable "layers" {
  description = "ARNs of layer versions."
  type        = list(string)
  default     = []
}

variable "kms_key_arn" {
  description = "A customer-managed KMS key for environment variables and logs (its policy lets CloudWatch Logs use it)."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_arn == null || can(regex("^arn:[^:]+:kms:[^:]+:[0-9]{12}:key/.+$", var.kms_key_arn))
    error_message = "kms_key_arn is a key's ARN (arn:aws:kms:REGION:ACCOUNT:key/ID)."
  }
}

variable "code_signing_config_arn" {
  description = "A code signing configuration that the package must satisfy."
  type        = string
  default     = null
}

variable "tracing" {
  description = "PassThrough follows the caller's decision; Active samples by itself and attaches AWS's AWSXRayDaemonWriteAccess."
  type        = string
  default     = "PassThrough"

  validation {
    condition     = contains(["PassThrough", "Active"], var.tracing)
    error_message = "tracing is PassThrough or Active."
  }
}

variable "log_retention_days" {
  description = "Days that logs are kept."
  type        = number
  default     = 30

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_retention_days)
    error_message = "log_retention_days is one of CloudWatch's: 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653."
  }
}

variable "alarms" {
  description = "CloudWatch alarms on failed invocations, throttles, and batches that take this share of the timeout."
  type = object({
    enabled        = optional(bool, true)
    errors         = optional(number, 1)
    throttles      = optional(number, 1)
    duration_share = optional(number, 0.9)
    actions        = optional(list(string), [])
  })
  default  = {}
  nullable = false

  validation {
    condition     = var.alarms.duration_share > 0 && var.alarms.duration_share <= 1 && var.alarms.errors >= 1 && var.alarms.throttles >= 1
    error_message = "alarms: errors and throttles are at least 1, duration_share is above 0 and at most 1."
  }
}

variable "tags" {
  description = "Tags of everything this module makes."
  type        = map(string)
  default     = {}
}
