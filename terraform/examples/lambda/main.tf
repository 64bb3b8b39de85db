# Tasks run in a Lambda function: no server at all.

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

module "function" {
  source = "../../modules/lambda-worker"

  name        = "${var.name}-orders"
  app         = "shop:app"
  package     = { filename = var.package_file }
  runtime     = "python${var.python}"
  timeout     = 30
  queues      = { orders = { queue = module.orders.queue, maximum_concurrency = 10 } }
  environment = merge(module.orders.environment, module.results.environment)
  policies    = [module.orders.policies["lambda"], module.results.policies["lambda"]]
}
