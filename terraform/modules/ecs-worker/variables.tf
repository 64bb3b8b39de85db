variable "name" {
  description = "Name of the service; role, task definition and log group are named after it."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9_-]{1,54}$", var.name))
    error_message = "name is 1 to 54 letters, digits, hyphens and underscores (a role's name has 64, -execution takes some)."
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

variable "image" {
  description = "The app's image, cloudq included, by tag or digest; a digest makes deployments repeatable."
  type        = string

  validation {
    condition     = can(regex("^[^ ]+$", var.image))
    error_message = "image is an image's name, e.g. 123456789012.dkr.ecr.eu-west-1.amazonaws.com/shop:1."
  }
}

variable "image_repository_arn" {
  description = "The ECR repository of the image, which the service may pull from; none for a public image."
  type        = string
  default     = null
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
  description = "Tasks of cloudq at once in a container; none: one per core (16 for threads)."
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
}

variable "environment" {
  description = "Environment variables: merge the `environment` outputs of queue, results and schedule, and add your own."
  type        = map(string)
  default     = {}
}

variable "secrets" {
  description = "Environment variables from Secrets Manager, by name: a secret's ARN."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for each in var.secrets : can(regex("^arn:[^:]+:secretsmanager:[^:]+:[0-9]{12}:secret:[^*:]+$", each))])
    error_message = "secrets: exact ARNs of whole secrets (arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME-abcdef)."
  }
}

variable "policies" {
  description = "IAM policy documents (JSON) of what the workers use: the `policies[\"worker\"]` outputs of queue and results, and your own."
  type        = list(string)
  default     = []
}

variable "architecture" {
  description = "X86_64 or ARM64, as the image was built."
  type        = string
  default     = "X86_64"

  validation {
    condition     = contains(["X86_64", "ARM64"], var.architecture)
    error_message = "architecture is X86_64 or ARM64."
  }
}

variable "cpu" {
  description = "CPU units of a container; 1024 is one core."
  type        = number
  default     = 512

  validation {
    condition     = contains([256, 512, 1024, 2048, 4096, 8192, 16384], var.cpu)
    error_message = "cpu is one of Fargate's: 256, 512, 1024, 2048, 4096, 8192, 16384."
  }
}

variable "memory" {
  description = "Megabytes of a container."
  type        = number
  default     = 1024

  validation {
    condition     = var.memory >= var.cpu * 2 && var.memory <= (var.cpu == 256 ? 2048 : var.cpu * 8)
    error_message = "memory fits cpu by Fargate's table: at least twice the CPU units, at most eight times (2048 with 256 units)."
  }
}

variable "cluster_arn" {
  description = "An ECS cluster with Container Insights (scaling counts its tasks); none: the module makes one."
  type        = string
  default     = null
}

variable "create_cluster" {
  description = "Make a cluster of the service's name, with Container Insights. False: cluster_arn names one."
  type        = bool
  default     = true

  validation {
    condition     = var.create_cluster || var.cluster_arn != null
    error_message = "create_cluster = false needs cluster_arn."
  }
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

variable "assign_public_ip" {
  description = "For subnets without a NAT: containers get public addresses (nothing comes in all the same)."
  type        = bool
  default     = false
}

variable "capacity" {
  description = "How many containers, and the share of them on Fargate Spot in percent (x86-64 and ARM)."
  type        = object({ min = optional(number, 1), max = optional(number, 10), spot_percentage = optional(number, 0) })
  default     = {}
  nullable    = false

  validation {
    condition     = var.capacity.min >= 0 && var.capacity.max >= 1 && var.capacity.max >= var.capacity.min
    error_message = "capacity: min is at least 0 and max at least 1 and min."
  }

  validation {
    condition     = var.capacity.spot_percentage >= 0 && var.capacity.spot_percentage <= 100
    error_message = "capacity: spot_percentage is 0 to 100."
  }
}

variable "oldest_seconds" {
  description = "Scale by the oldest message's age as well: as many containers are added as if the backlog were above its aim by as much as the age is above this, in seconds. Well above your longest task: messages in hand count. Up to 4 queues. null: by the backlog alone."
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

variable "backlog_per_task" {
  description = "Waiting messages per container that scaling aims at."
  type        = number
  default     = 100

  validation {
    condition     = var.backlog_per_task > 0
    error_message = "backlog_per_task is above 0."
  }
}

variable "drain_seconds" {
  description = "How long running tasks may go on when a container is stopped. Fargate gives at most 120 s."
  type        = number
  default     = 100

  validation {
    condition     = var.drain_seconds >= 1 && var.drain_seconds <= 110
    error_message = "drain_seconds is 1 to 110: Fargate kills a container 120 s after SIGTERM."
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
