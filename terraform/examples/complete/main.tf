# Everything: a queue that Lambda consumes, one that workers on EC2 consume, results, schedules, a dashboard.

data "aws_caller_identity" "this" {}

data "aws_vpc" "default" {
  default = true
}

data "aws_subnets" "default" {
  filter {
    name   = "vpc-id"
    values = [data.aws_vpc.default.id]
  }
}

module "orders" {
  source = "../../modules/queue"

  name                       = "orders"
  name_prefix                = "${var.name}-"
  visibility_timeout_seconds = 6 * var.function.timeout
  alarms                     = { actions = var.alarm_actions }
}

module "reports" {
  source = "../../modules/queue"

  name                       = "reports"
  name_prefix                = "${var.name}-"
  visibility_timeout_seconds = 60 # workers renew it
  alarms                     = { actions = var.alarm_actions, age_seconds = 3600 }
}

module "results" {
  source = "../../modules/results"

  table_name          = "${var.name}-results"
  deletion_protection = false # an example is taken down again
  bucket = {
    name          = "${var.name}-results-${data.aws_caller_identity.this.account_id}"
    force_destroy = true
  }
}

# Where EC2 gets the package from.
resource "aws_s3_bucket" "releases" {
  bucket        = "${var.name}-releases-${data.aws_caller_identity.this.account_id}"
  force_destroy = true
}

resource "aws_s3_bucket_public_access_block" "releases" {
  bucket                  = aws_s3_bucket.releases.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_object" "package" {
  bucket = aws_s3_bucket.releases.id
  key    = "shop/${filesha256(var.package_file)}.zip" # another package, another key: instances are replaced
  source = var.package_file
}

locals {
  # The app everywhere: where queues and results are, and who keeps long delays.
  environment = merge(module.orders.environment, module.results.environment, module.schedule.environment, {
    CLOUDQ_TASK_ROUTES = jsonencode({ "shop.report" = "reports" }) # the other tasks go to the default queue, orders
  })
}

module "function" {
  source = "../../modules/lambda-worker"

  name        = "${var.name}-orders"
  app         = "shop:app"
  package     = { filename = var.package_file }
  runtime     = "python${var.python}"
  timeout     = var.function.timeout
  queues      = { orders = { queue = module.orders.queue, maximum_concurrency = var.function.maximum_concurrency } }
  environment = local.environment
  policies    = [module.orders.policies["lambda"], module.results.policies["lambda"], module.schedule.policies["lambda"]]
  alarms      = { actions = var.alarm_actions }
}

module "workers" {
  source = "../../modules/ec2-worker"

  name        = "${var.name}-reports"
  app         = "shop:app"
  package     = { s3_bucket = aws_s3_object.package.bucket, s3_key = aws_s3_object.package.key, sha256 = filesha256(var.package_file) }
  python      = "python${var.python}"
  queues      = [module.reports.queue]
  pool        = "threads"
  concurrency = 4
  environment = local.environment
  policies    = [module.reports.policies["worker"], module.results.policies["worker"], module.schedule.policies["worker"]]
  vpc_id      = data.aws_vpc.default.id
  subnet_ids  = data.aws_subnets.default.ids
  capacity    = { min = 1, max = 4 }
}

module "schedule" {
  source = "../../modules/schedule"

  name                  = var.name
  policies              = [module.orders.policies["scheduler"], module.reports.policies["scheduler"]]
  dead_letter_queue_arn = module.orders.dead_letter_arn
  schedules = {
    morning-report = {
      expression = "cron(0 6 * * ? *)"
      queue      = module.reports.queue
      task       = "shop.report"
      args       = jsonencode(["today"])
    }
  }
}

module "containers" {
  source = "../../modules/ecs-worker"
  count  = var.container_image == null ? 0 : 1

  name        = "${var.name}-containers"
  app         = "shop:app"
  image       = var.container_image
  queues      = [module.reports.queue]
  environment = local.environment
  policies    = [module.reports.policies["worker"], module.results.policies["worker"], module.schedule.policies["worker"]]
  vpc_id      = data.aws_vpc.default.id
  subnet_ids  = data.aws_subnets.default.ids

  assign_public_ip = true # the default VPC has no NAT
}

module "dashboard" {
  source = "../../modules/dashboard-alarms"

  name               = var.name
  region             = var.region
  queues             = [module.orders.queue, module.reports.queue]
  functions          = [module.function.function_name]
  autoscaling_groups = [module.workers.autoscaling_group_name]
  table_name         = module.results.table_name
  alarm_arns         = concat(module.orders.alarm_arns, module.reports.alarm_arns, module.function.alarm_arns)
  alarm_actions      = var.alarm_actions
}
