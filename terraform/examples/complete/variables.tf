variable "region" {
  description = "The AWS region."
  type        = string
  default     = "eu-west-1"
}

variable "name" {
  description = "Name of everything here, and prefix of the queues."
  type        = string
  default     = "shop"
}

variable "package_file" {
  description = "The zip that `cloudq package --worker` built."
  type        = string
  default     = "../app/shop.zip"
}

variable "python" {
  description = "The Python that the zip was built for."
  type        = string
  default     = "3.13"
}

variable "function" {
  description = "Seconds that a batch may take in Lambda, and how many run at once."
  type        = object({ timeout = optional(number, 30), maximum_concurrency = optional(number, 10) })
  default     = {}
}

variable "container_image" {
  description = "An image of the app for Fargate (docs/deploy.md shows a Dockerfile); none: no Fargate service."
  type        = string
  default     = null
}

variable "alarm_actions" {
  description = "ARNs that alarms report to, of SNS topics for example."
  type        = list(string)
  default     = []
}
