mock_provider "aws" {
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/shop-lambda" }
  }
  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:eu-west-1:123456789012:log-group:/aws/lambda/shop" }
  }
  mock_resource "aws_lambda_function" {
    defaults = { arn = "arn:aws:lambda:eu-west-1:123456789012:function:shop" }
  }
}

variables {
  name    = "shop"
  app     = "shop.tasks:app"
  package = { s3_bucket = "releases", s3_key = "shop.zip" }
  timeout = 60
  queues = {
    orders = { queue = { name = "orders", arn = "arn:aws:sqs:eu-west-1:123456789012:orders", fifo = false, visibility_timeout_seconds = 360 } }
  }
  environment = { CLOUDQ_BROKER_URL = "sqs://?region=eu-west-1" }
  policies = [
    "{\"Version\":\"2012-10-17\",\"Statement\":[{\"Effect\":\"Allow\",\"Action\":[\"sqs:ReceiveMessage\"],\"Resource\":[\"arn:aws:sqs:eu-west-1:123456789012:orders\"]}]}",
  ]
}

run "a_function_reports_partial_failures_and_may_do_only_what_it_needs" {
  assert {
    condition     = aws_lambda_event_source_mapping.this["orders"].function_response_types == toset(["ReportBatchItemFailures"])
    error_message = "a failed message must not bring its batch back"
  }
  assert {
    condition = jsondecode(aws_iam_role_policy.this.policy).Statement == [
      { Effect = "Allow", Action = ["logs:CreateLogStream", "logs:PutLogEvents"], Resource = ["arn:aws:logs:eu-west-1:123456789012:log-group:/aws/lambda/shop:*"] },
      { Effect = "Allow", Action = ["sqs:ReceiveMessage"], Resource = ["arn:aws:sqs:eu-west-1:123456789012:orders"] },
    ]
    error_message = aws_iam_role_policy.this.policy
  }
  assert {
    condition     = aws_lambda_function.this.environment[0].variables == tomap({ CLOUDQ_APP = "shop.tasks:app", CLOUDQ_BROKER_URL = "sqs://?region=eu-west-1", CLOUDQ_ENV = "production" })
    error_message = "the function knows its app and where its queues are"
  }
  assert {
    condition     = aws_cloudwatch_log_group.this.retention_in_days == 30 && length(aws_cloudwatch_metric_alarm.errors) == 1
    error_message = "logs end and alarms are set"
  }
  assert {
    condition     = length(aws_iam_role_policy_attachment.vpc) == 0 && length(aws_iam_role_policy_attachment.tracing) == 0
    error_message = "no managed policy without a need"
  }
}

run "concurrency_can_be_limited" {
  variables {
    queues = {
      orders = { queue = { name = "orders", arn = "arn:aws:sqs:eu-west-1:123456789012:orders", fifo = false, visibility_timeout_seconds = 365 }, maximum_concurrency = 2, batch_size = 100, maximum_batching_window_in_seconds = 5 }
    }
  }
  assert {
    condition     = one(aws_lambda_event_source_mapping.this["orders"].scaling_config).maximum_concurrency == 2
    error_message = "at most two at once"
  }
}

run "pollers_can_be_provisioned_in_a_vpc_with_tracing" {
  variables {
    queues = {
      orders = { queue = { name = "orders", arn = "arn:aws:sqs:eu-west-1:123456789012:orders", fifo = false, visibility_timeout_seconds = 360 }, provisioned_pollers = { minimum = 2, maximum = 20 } }
    }
    vpc     = { subnet_ids = ["subnet-1"], security_group_ids = ["sg-1"] }
    tracing = "Active"
  }
  assert {
    condition     = one(aws_lambda_event_source_mapping.this["orders"].provisioned_poller_config).maximum_pollers == 20
    error_message = "provisioned pollers"
  }
  assert {
    condition     = length(aws_iam_role_policy_attachment.vpc) == 1 && length(aws_iam_role_policy_attachment.tracing) == 1
    error_message = "a VPC and X-Ray need AWS's policies"
  }
}

run "a_queue_with_too_short_a_visibility_is_refused" {
  command = plan
  variables {
    queues = {
      orders = { queue = { name = "orders", arn = "arn:aws:sqs:eu-west-1:123456789012:orders", fifo = false, visibility_timeout_seconds = 359 } }
    }
  }
  expect_failures = [aws_lambda_event_source_mapping.this["orders"]]
}

run "a_batching_window_needs_visibility_too" {
  command = plan
  variables {
    queues = {
      orders = { queue = { name = "orders", arn = "arn:aws:sqs:eu-west-1:123456789012:orders", fifo = false, visibility_timeout_seconds = 360 }, maximum_batching_window_in_seconds = 1 }
    }
  }
  expect_failures = [aws_lambda_event_source_mapping.this["orders"]]
}

run "pollers_and_maximum_concurrency_exclude_each_other" {
  command = plan
  variables {
    queues = {
      orders = { queue = { name = "orders", arn = "arn:aws:sqs:eu-west-1:123456789012:orders", fifo = false, visibility_timeout_seconds = 360 }, maximum_concurrency = 2, provisioned_pollers = {} }
    }
  }
  expect_failures = [var.queues]
}

run "a_large_batch_needs_a_window" {
  command = plan
  variables {
    queues = {
      orders = { queue = { name = "orders", arn = "arn:aws:sqs:eu-west-1:123456789012:orders", fifo = false, visibility_timeout_seconds = 360 }, batch_size = 11 }
    }
  }
  expect_failures = [var.queues]
}

run "a_fifo_queue_has_no_window_and_small_batches" {
  command = plan
  variables {
    queues = {
      orders = { queue = { name = "orders.fifo", arn = "arn:aws:sqs:eu-west-1:123456789012:orders.fifo", fifo = true, visibility_timeout_seconds = 3600 }, batch_size = 11, maximum_batching_window_in_seconds = 1 }
    }
  }
  expect_failures = [var.queues]
}

run "impossible_values_are_refused" {
  command = plan
  variables {
    app                  = "shop.tasks"
    package              = { filename = "a.zip", s3_bucket = "b" }
    timeout              = 901
    memory_size          = 64
    runtime              = "python3.9"
    architecture         = "arm"
    log_retention_days   = 2
    reserved_concurrency = 1
    tracing              = "On"
    environment          = { CLOUDQ_APP = "other:app" }
    queues               = {}
  }
  expect_failures = [
    var.app, var.package, var.timeout, var.memory_size, var.runtime, var.architecture,
    var.log_retention_days, var.reserved_concurrency, var.tracing, var.environment,
  ]
}
