variable "name" {
  description = "Name of the dashboard and of the alarm over all alarms."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9_-]{1,200}$", var.name))
    error_message = "name is letters, digits, hyphens and underscores."
  }
}

variable "region" {
  description = "The region that the metrics are in."
  type        = string

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region is like eu-west-1."
  }
}

variable "queues" {
  description = "The queue module's `queue` outputs: a row of graphs for each."
  type = list(object({
    name                       = string
    sqs_name                   = string
    dead_letter_sqs_name       = string
    arn                        = optional(string)
    fifo                       = optional(bool)
    visibility_timeout_seconds = optional(number)
    max_receive_count          = optional(number)
  }))
  default = []
}

variable "functions" {
  description = "Names of Lambda functions: a row of graphs for each."
  type        = list(string)
  default     = []
}

variable "autoscaling_groups" {
  description = "Names of Auto Scaling groups of workers."
  type        = list(string)
  default     = []
}

variable "services" {
  description = "ECS services of workers."
  type        = list(object({ cluster = string, service = string }))
  default     = []
}

variable "table_name" {
  description = "The results table."
  type        = string
  default     = null
}

variable "alarm_arns" {
  description = "ARNs of alarms to show, and to join into one: the `alarm_arns` outputs of the other modules."
  type        = list(string)
  default     = []

  validation {
    condition     = length(var.alarm_arns) <= 100
    error_message = "alarm_arns: a composite alarm joins at most 100 alarms."
  }
}

variable "alarm_actions" {
  description = "ARNs that the joined alarm reports to: one message however many alarms ring."
  type        = list(string)
  default     = []
}

variable "tags" {
  description = "Tags of everything this module makes."
  type        = map(string)
  default     = {}
}
