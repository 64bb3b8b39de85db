# A queue with dead letters, and a results table: workers run wherever you like.

module "orders" {
  source = "../../modules/queue"

  name        = "orders"
  name_prefix = "${var.name}-"
}

module "results" {
  source = "../../modules/results"

  table_name          = "${var.name}-results"
  deletion_protection = false # an example is taken down again
}
