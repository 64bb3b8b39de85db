# Tasks run on spot instances that come with the backlog and go, drained, without it.

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

  name        = "orders"
  name_prefix = "${var.name}-"
}

module "results" {
  source = "../../modules/results"

  table_name          = "${var.name}-results"
  deletion_protection = false # an example is taken down again
}

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

module "workers" {
  source = "../../modules/ec2-worker"

  name        = "${var.name}-workers"
  app         = "shop:app"
  package     = { s3_bucket = aws_s3_object.package.bucket, s3_key = aws_s3_object.package.key, sha256 = filesha256(var.package_file) }
  python      = "python${var.python}"
  queues      = [module.orders.queue]
  environment = merge(module.orders.environment, module.results.environment)
  policies    = [module.orders.policies["worker"], module.results.policies["worker"]]
  vpc_id      = data.aws_vpc.default.id
  subnet_ids  = data.aws_subnets.default.ids

  capacity             = { min = 0, max = 4 } # nothing to do, nothing to pay
  backlog_per_instance = 50
}
