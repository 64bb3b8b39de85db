# Tasks of one customer run in order, those of different customers side by side, in Lambda.

module "orders" {
  source = "../../modules/queue"

  name        = "orders.fifo"
  name_prefix = "${var.name}-"
  fifo        = true

  visibility_timeout_seconds = 180 # six times the function's timeout
  max_receive_count          = 10  # on FIFO queues a retry is a further receipt
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
