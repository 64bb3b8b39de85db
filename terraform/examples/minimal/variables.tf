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
