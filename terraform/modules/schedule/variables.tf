variable "name" {
  description = "Name of the schedule group; the role is named after it."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9_-]{1,54}$", var.name))
    error_message = "name is 1 to 54 letters, digits, hyphens and underscores (a role's name has 64, -scheduler takes some)."
  }
}

variable "schedules" {
  description = "Periodic tasks by name: an expression (rate(5 minutes), cron(0 6 * * ? *), at(2027-01-01T00:00:00)), the queue module's `queue` output, a task, and its arguments as JSON texts."
  type = map(object({
    expression              = string
    queue                   = object({ name = string, arn = string, fifo = bool, sqs_name = optional(string), visibility_timeout_seconds = optional(number), max_receive_count = optional(number) })
    task                    = string
    args                    = optional(string, "[]")
    kwargs                  = optional(string, "{}")
    timezone                = optional(string, "UTC")
    group_id                = optional(string)
    flexible_window_minutes = optional(number, 0)
    enabled                 = optional(bool, true)
    start                   = optional(string)
    end                     = optional(string)
    description             = optional(string, "A periodic task of cloudq.")
    max_age_seconds         = optional(number, 3600)
    max_attempts            = optional(number, 10)
  }))
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for name, each in var.schedules : can(regex("^[0-9A-Za-z_.-]{1,64}$", name))])
    error_message = "schedules: a name is 1 to 64 letters, digits, hyphens, underscores and dots."
  }

  validation {
    condition     = alltrue([for each in var.schedules : can(regex("^(rate\\([1-9][0-9]* (minute|minutes|hour|hours|day|days)\\)|cron\\([^)]+\\)|at\\([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\))$", each.expression))])
    error_message = "schedules: an expression is rate(5 minutes), cron(minutes hours day-of-month month day-of-week year) or at(yyyy-mm-ddThh:mm:ss)."
  }

  validation {
    condition     = alltrue([for each in var.schedules : !startswith(each.expression, "cron(") || length(split(" ", trimsuffix(trimprefix(each.expression, "cron("), ")"))) == 6])
    error_message = "schedules: EventBridge's cron has six fields (minutes hours day-of-month month day-of-week year), and one of the two days is a question mark."
  }

  validation {
    condition     = alltrue([for each in var.schedules : each.queue.fifo == (each.group_id != null)])
    error_message = "schedules: a FIFO queue needs group_id (and content-based deduplication, which the queue module sets); a standard queue takes none."
  }

  validation {
    condition     = alltrue([for each in var.schedules : can(jsondecode(each.args)) && startswith(trimspace(each.args), "[")])
    error_message = "schedules: args is a JSON array as text: jsonencode([1, 2])."
  }

  validation {
    condition     = alltrue([for each in var.schedules : can(keys(jsondecode(each.kwargs)))])
    error_message = "schedules: kwargs is a JSON object as text: jsonencode({ day = 1 })."
  }

  validation {
    condition     = alltrue([for each in var.schedules : each.flexible_window_minutes >= 0 && each.flexible_window_minutes <= 1440])
    error_message = "schedules: flexible_window_minutes is 0 (off) to 1440."
  }

  validation {
    condition     = alltrue([for each in var.schedules : each.max_age_seconds >= 60 && each.max_age_seconds <= 86400 && each.max_attempts >= 0 && each.max_attempts <= 185])
    error_message = "schedules: max_age_seconds is 60 to 86400, max_attempts 0 to 185."
  }
}

variable "beat" {
  description = "A function with handlers.beat.handler (lambda-worker's function_arn), called once a minute: for schedules that EventBridge cannot express."
  type        = object({ function_arn = string, enabled = optional(bool, true) })
  default     = null
}

variable "policies" {
  description = "The `policies[\"scheduler\"]` outputs of the queues that schedules send to, those of the app's own delays included."
  type        = list(string)
  default     = []
}

variable "dead_letter_queue_arn" {
  description = "A standard queue for what could not be sent, e.g. the queue module's dead_letter_arn."
  type        = string
  default     = null

  validation {
    condition     = var.dead_letter_queue_arn == null || try(!endswith(var.dead_letter_queue_arn, ".fifo"), false)
    error_message = "dead_letter_queue_arn is a standard queue's: EventBridge Scheduler takes no FIFO queue there."
  }
}

variable "kms_key_arn" {
  description = "A customer-managed KMS key that schedules are encrypted with; without it EventBridge uses its own."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_arn == null || can(regex("^arn:[^:]+:kms:[^:]+:[0-9]{12}:key/.+$", var.kms_key_arn))
    error_message = "kms_key_arn is a key's ARN (arn:aws:kms:REGION:ACCOUNT:key/ID)."
  }
}

variable "tags" {
  description = "Tags of everything this module makes."
  type        = map(string)
  default     = {}
}
