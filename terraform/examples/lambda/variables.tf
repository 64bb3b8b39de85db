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
