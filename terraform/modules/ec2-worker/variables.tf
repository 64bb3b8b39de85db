variable "name" {
  description = "Name of the workers: Auto Scaling group, launch template, role and log group are named after it."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9_-]{1,57}$", var.name))
    error_message = "name is 1 to 57 letters, digits, hyphens and underscores (a role's name has 64, -worker takes some)."
  }
}

variable "app" {
  description = "The app, MODULE:APP, as in `cloudq worker -A`."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$", var.app))
    error_message = "app is MODULE:APP, as in `cloudq worker -A MODULE:APP`, e.g. shop.tasks:app."
  }
}

variable "package" {
  description = "The zip that `cloudq package --worker` built (Lambda takes the same), as an object in S3. A new key or version rolls the instances."
  type        = object({ s3_bucket = string, s3_key = string, s3_object_version = optional(string), sha256 = optional(string) })

  validation {
    condition     = var.package.sha256 == null || can(regex("^[0-9a-f]{64}$", var.package.sha256))
    error_message = "package.sha256 is 64 lowercase hexadecimal digits: what sha256sum prints."
  }

  validation {
    condition     = can(regex("^[A-Za-z0-9!_.*()/-]+$", var.package.s3_key)) && can(regex("^[a-z0-9.-]+$", var.package.s3_bucket))
    error_message = "package: s3_bucket and s3_key name an object; the key is letters, digits and !_.*()/-"
  }
}

variable "python" {
  description = "Amazon Linux 2023's package of the Python that the zip was built for."
  type        = string
  default     = "python3.13"

  validation {
    condition     = can(regex("^python3\\.1[1-9]$", var.python))
    error_message = "python is python3.11 or later."
  }
}

variable "queues" {
  description = "Queues to consume, in this order: the queue module's `queue` outputs."
  type = list(object({
    name                       = string
    arn                        = string
    fifo                       = bool
    sqs_name                   = string
    visibility_timeout_seconds = optional(number)
    max_receive_count          = optional(number)
  }))

  validation {
    condition     = length(var.queues) >= 1 && length(var.queues) <= 8
    error_message = "queues: a worker consumes 1 to 8 queues (CloudWatch's metric math has ten metrics for scaling)."
  }
}

variable "pool" {
  description = "Where tasks run: prefork, threads, asyncio or solo."
  type        = string
  default     = "prefork"

  validation {
    condition     = contains(["prefork", "threads", "asyncio", "solo"], var.pool)
    error_message = "pool is prefork, threads, asyncio or solo."
  }
}

variable "concurrency" {
  description = "Tasks at once on an instance; none: the number of its cores (16 for threads)."
  type        = number
  default     = null

  validation {
    condition     = var.concurrency == null || try(var.concurrency >= 1, false)
    error_message = "concurrency is at least 1."
  }
}

variable "arguments" {
  description = "Further arguments of `cloudq worker`, such as [\"--max-tasks-per-child\", \"1000\"]."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for each in var.arguments : can(regex("^[A-Za-z0-9_.,:=/@+-]+$", each))])
    error_message = "arguments: letters, digits and _.,:=/@+- only: they stand in a systemd unit."
  }
}

variable "environment" {
  description = "Environment variables: merge the `environment` outputs of queue, results and schedule, and add your own. No secrets: user data can be read."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for key, value in var.environment : can(regex("^[A-Za-z_][A-Za-z0-9_]*$", key)) && !can(regex("['\n]", value))])
    error_message = "environment: names are letters, digits and underscores; values have no single quotes or line breaks."
  }
}

variable "policies" {
  description = "IAM policy documents (JSON) of what the workers use: the `policies[\"worker\"]` outputs of queue and results, and your own."
  type        = list(string)
  default     = []
}

variable "instance_types" {
  description = "Instance types, any of which will do; several make spot capacity easier to get."
  type        = list(string)
  default     = ["c6i.large", "c6a.large", "m6i.large", "m6a.large"]

  validation {
    condition     = length(var.instance_types) >= 1
    error_message = "instance_types: at least one."
  }
}

variable "architecture" {
  description = "x86_64 or arm64: of the instance types and of the zip."
  type        = string
  default     = "x86_64"

  validation {
    condition     = contains(["x86_64", "arm64"], var.architecture)
    error_message = "architecture is x86_64 or arm64."
  }
}

variable "image_id" {
  description = "An AMI based on Amazon Linux 2023; none: the newest one when an instance starts."
  type        = string
  default     = null
}

variable "vpc_id" {
  description = "The VPC: the module makes a security group there that lets nothing in, and only HTTPS out."
  type        = string
}

variable "subnet_ids" {
  description = "Subnets of the workers, with a NAT or endpoints for SQS, DynamoDB, S3, logs, SSM and EC2 Auto Scaling."
  type        = list(string)

  validation {
    condition     = length(var.subnet_ids) >= 1
    error_message = "subnet_ids: at least one."
  }
}

variable "security_group_ids" {
  description = "Further security groups of the workers: those that let them reach your database, for example."
  type        = list(string)
  default     = []
}

variable "egress_cidrs" {
  description = "Where HTTPS may go to."
  type        = list(string)
  default     = ["0.0.0.0/0"]
}

variable "capacity" {
  description = "How many instances, and how they are bought: the first on_demand_base and on_demand_percentage of the rest on demand, the others on spot."
  type = object({
    min                  = optional(number, 1)
    max                  = optional(number, 10)
    on_demand_base       = optional(number, 0)
    on_demand_percentage = optional(number, 0)
  })
  default  = {}
  nullable = false

  validation {
    condition     = var.capacity.min >= 0 && var.capacity.max >= 1 && var.capacity.max >= var.capacity.min
    error_message = "capacity: min is at least 0 and max at least 1 and min."
  }

  validation {
    condition     = var.capacity.on_demand_base >= 0 && var.capacity.on_demand_percentage >= 0 && var.capacity.on_demand_percentage <= 100
    error_message = "capacity: on_demand_base is at least 0, on_demand_percentage 0 to 100."
  }
}

variable "oldest_seconds" {
  description = "Scale by the oldest message's age as well: as many instances are added as if the backlog were above its aim by as much as the age is above this, in seconds. Well above your longest task: messages in hand count. Up to 4 queues. null: by the backlog alone."
  type        = number
  default     = null

  validation {
    condition     = var.oldest_seconds == null ? true : var.oldest_seconds >= 1
    error_message = "oldest_seconds is at least 1, or null."
  }

  validation {
    condition     = var.oldest_seconds == null || length(var.queues) <= 4
    error_message = "oldest_seconds: with an age beside each backlog, CloudWatch's ten metrics for scaling are enough for 4 queues."
  }
}

variable "backlog_per_instance" {
  description = "Waiting messages per instance that scaling aims at: the tasks one instance finishes in the delay you accept."
  type        = number
  default     = 100

  validation {
    condition     = var.backlog_per_instance > 0
    error_message = "backlog_per_instance is above 0."
  }
}

variable "drain_seconds" {
  description = "How long running tasks may go on when an instance is taken away. A spot interruption gives 120 s whatever stands here."
  type        = number
  default     = 110

  validation {
    condition     = var.drain_seconds >= 1 && var.drain_seconds <= 7000
    error_message = "drain_seconds is 1 to 7000 (a lifecycle hook waits at most 7200 s)."
  }
}

variable "watchdog_seconds" {
  description = "systemd restarts a worker that has not reported for so long. 0: no watchdog, and systemd is not told when the worker is ready."
  type        = number
  default     = 180

  validation {
    condition     = var.watchdog_seconds == 0 || var.watchdog_seconds >= 10
    error_message = "watchdog_seconds is 0 (off) or at least 10."
  }
}

variable "memory_max" {
  description = "systemd's MemoryMax of the worker and its children, such as 80%."
  type        = string
  default     = "90%"

  validation {
    condition     = can(regex("^([0-9]+[KMG]?|[0-9]{1,2}%|infinity)$", var.memory_max))
    error_message = "memory_max is like 90%, 1500M, 6G or infinity."
  }
}

variable "volume" {
  description = "The root volume."
  type        = object({ size = optional(number, 16), type = optional(string, "gp3"), kms_key_arn = optional(string) })
  default     = {}
  nullable    = false
}

variable "session_manager" {
  description = "Shells by SSM Session Manager (AWS's AmazonSSMManagedInstanceCore): there is no SSH."
  type        = bool
  default     = true
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

variable "log_kms_key_arn" {
  description = "A customer-managed KMS key for the logs (its policy lets CloudWatch Logs use it)."
  type        = string
  default     = null
}

variable "tags" {
  description = "Tags of everything this module makes."
  type        = map(string)
  default     = {}
}
