variable "name" {
  description = "The queue's name as the app says it (task_default_queue, queue=). A FIFO queue's ends in .fifo."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9_-]{1,75}(\\.fifo)?$", var.name))
    error_message = "name is 1 to 75 letters, digits, hyphens and underscores, with .fifo at the end for a FIFO queue (the dead-letter queue needs room for -dlq)."
  }

  validation {
    condition     = endswith(var.name, ".fifo") == var.fifo
    error_message = "A FIFO queue's name ends in .fifo and a standard queue's does not: set fifo = true and name = \"orders.fifo\", or neither."
  }
}

variable "name_prefix" {
  description = "Put in front of the name in SQS, e.g. \"prod-\". The app keeps saying the short name: CLOUDQ_BROKER_URL carries the prefix."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^[A-Za-z0-9_-]*$", var.name_prefix)) && length("${var.name_prefix}${var.name}") <= 76
    error_message = "name_prefix is letters, digits, hyphens and underscores; with the name at most 76 characters (SQS allows 80, -dlq takes four)."
  }
}

variable "fifo" {
  description = "A FIFO queue: order within a message group, in high-throughput mode."
  type        = bool
  default     = false
}

variable "content_based_deduplication" {
  description = "FIFO only, on there: a message without a deduplication id is given its hash as one. EventBridge schedules have none; cloudq itself always sends one."
  type        = bool
  default     = null

  validation {
    condition     = var.fifo || var.content_based_deduplication != true
    error_message = "content_based_deduplication is for FIFO queues: set fifo = true, or leave it out."
  }
}

variable "visibility_timeout_seconds" {
  description = "How long a received message stays invisible. A worker renews it; for Lambda it is at least six times the function's timeout."
  type        = number
  default     = 60

  validation {
    condition     = var.visibility_timeout_seconds >= 1 && var.visibility_timeout_seconds <= 43200 && floor(var.visibility_timeout_seconds) == var.visibility_timeout_seconds
    error_message = "visibility_timeout_seconds is a whole number of seconds from 1 to 43200 (12 hours)."
  }
}

variable "max_receive_count" {
  description = "Receipts after which SQS itself moves a message to the dead-letter queue. Retries do not count on standard queues; crashes do."
  type        = number
  default     = 5

  validation {
    condition     = var.max_receive_count >= 1 && var.max_receive_count <= 1000 && floor(var.max_receive_count) == var.max_receive_count
    error_message = "max_receive_count is a whole number from 1 to 1000."
  }
}

variable "message_retention_seconds" {
  description = "How long SQS keeps a message nobody has deleted."
  type        = number
  default     = 345600

  validation {
    condition     = var.message_retention_seconds >= 60 && var.message_retention_seconds <= 1209600
    error_message = "message_retention_seconds is 60 to 1209600 (14 days)."
  }
}

variable "dead_letter_retention_seconds" {
  description = "How long dead letters are kept, counted from when the message was first sent (standard queues)."
  type        = number
  default     = 1209600

  validation {
    condition     = var.dead_letter_retention_seconds >= var.message_retention_seconds && var.dead_letter_retention_seconds <= 1209600
    error_message = "dead_letter_retention_seconds is at least message_retention_seconds and at most 1209600 (14 days): a dead letter keeps the age it had."
  }
}

variable "max_message_size" {
  description = "Largest message in bytes. SQS takes 1048576, but AWS provider 5.x accepts at most 262144; raise it with provider 6.x. CLOUDQ_BROKER_URL carries the limit to the app."
  type        = number
  default     = 262144

  validation {
    condition     = var.max_message_size >= 1024 && var.max_message_size <= 1048576
    error_message = "max_message_size is 1024 to 1048576 bytes."
  }
}

variable "receive_wait_time_seconds" {
  description = "Length of a poll by clients that do not say (workers do)."
  type        = number
  default     = 20

  validation {
    condition     = var.receive_wait_time_seconds >= 0 && var.receive_wait_time_seconds <= 20
    error_message = "receive_wait_time_seconds is 0 to 20."
  }
}

variable "kms_key_arn" {
  description = "A customer-managed KMS key for both queues. Without it SQS encrypts with its own keys, at no cost."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_arn == null || can(regex("^arn:[^:]+:kms:[^:]+:[0-9]{12}:key/.+$", var.kms_key_arn))
    error_message = "kms_key_arn is a key's ARN (arn:aws:kms:REGION:ACCOUNT:key/ID): policies name exact ARNs, so an alias or an id will not do."
  }
}

variable "kms_data_key_reuse_period_seconds" {
  description = "With kms_key_arn: how long SQS uses a data key before it asks KMS again."
  type        = number
  default     = 300

  validation {
    condition     = var.kms_data_key_reuse_period_seconds >= 60 && var.kms_data_key_reuse_period_seconds <= 86400
    error_message = "kms_data_key_reuse_period_seconds is 60 to 86400."
  }
}

variable "alarms" {
  description = "CloudWatch alarms: on messages waiting, on the oldest one's age in seconds, and on dead letters. Actions are ARNs, of SNS topics for example."
  type = object({
    enabled      = optional(bool, true)
    depth        = optional(number, 10000)
    age_seconds  = optional(number, 900)
    dead_letters = optional(number, 1)
    actions      = optional(list(string), [])
  })
  default  = {}
  nullable = false

  validation {
    condition     = var.alarms.depth >= 1 && var.alarms.age_seconds >= 1 && var.alarms.dead_letters >= 1
    error_message = "alarms: depth, age_seconds and dead_letters are at least 1."
  }
}

variable "tags" {
  description = "Tags of everything this module makes."
  type        = map(string)
  default     = {}
}
