# Periodic tasks without a beat process, and delays of any length: EventBridge keeps them.

module "orders" {
  source = "../../modules/queue"

  name                       = "orders"
  name_prefix                = "${var.name}-"
  visibility_timeout_seconds = 180 # six times the function's timeout
}

module "results" {
  source = "../../modules/results"

  table_name          = "${var.name}-results"
  deletion_protection = false # an example is taken down again
}

module "schedule" {
  source = "../../modules/schedule"

  name                  = var.name
  policies              = [module.orders.policies["scheduler"]]
  dead_letter_queue_arn = module.orders.dead_letter_arn
  schedules = {
    every-minute = {
      expression = "rate(1 minute)"
      queue      = module.orders.queue
      task       = "shop.report"
      args       = jsonencode(["today"])
    }
    morning = {
      expression = "cron(0 6 ? * MON-FRI *)"
      timezone   = "Europe/Berlin"
      queue      = module.orders.queue
      task       = "shop.report"
      args       = jsonencode(["yesterday"])
    }
  }
}

module "function" {
  source = "../../modules/lambda-worker"

  name        = "${var.name}-orders"
  app         = "shop:app"
  package     = { filename = var.package_file }
  runtime     = "python${var.python}"
  timeout     = 30
  queues      = { orders = { queue = module.orders.queue, maximum_concurrency = 10 } }
  environment = local.environment
  policies    = [module.orders.policies["lambda"], module.results.policies["lambda"], module.schedule.policies["lambda"]]
}

locals {
  environment = merge(module.orders.environment, module.results.environment, module.schedule.environment)
}
