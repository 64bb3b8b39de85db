# A Lambda function from the zip of `cloudq package`, the mappings from its queues, its role, logs and alarms.

locals {
  # The log group's ARN tells partition, region and account: nobody is asked for them.
  function_name = var.name
  statements    = flatten([for each in var.policies : jsondecode(each).Statement])
}

resource "aws_cloudwatch_log_group" "this" {
  #checkov:skip=CKV_AWS_338:Retention is the variable log_retention_days; a year of task logs is a price that nobody should pay by default.
  name              = "/aws/lambda/${local.function_name}"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.kms_key_arn
  tags              = var.tags
}

resource "aws_iam_role" "this" {
  name        = "${var.name}-lambda"
  description = "The cloudq function ${var.name}."
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "lambda.amazonaws.com" }
      Action    = "sts:AssumeRole"
    }]
  })
  tags = var.tags
}

resource "aws_iam_role_policy" "this" {
  name = "cloudq"
  role = aws_iam_role.this.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      # The streams of this group; the group itself is made above, so the function may not.
      [{ Effect = "Allow", Action = ["logs:CreateLogStream", "logs:PutLogEvents"], Resource = ["${aws_cloudwatch_log_group.this.arn}:*"] }],
      var.kms_key_arn == null ? [] : [{ Effect = "Allow", Action = ["kms:Decrypt"], Resource = [var.kms_key_arn] }],
      local.statements,
    )
  })
}

# Network interfaces cannot be named before they exist, so AWS's own policy has to do.
resource "aws_iam_role_policy_attachment" "vpc" {
  count = var.vpc == null ? 0 : 1

  role       = aws_iam_role.this.name
  policy_arn = "arn:${split(":", aws_iam_role.this.arn)[1]}:iam::aws:policy/service-role/AWSLambdaVPCAccessExecutionRole"
}

resource "aws_iam_role_policy_attachment" "tracing" {
  count = var.tracing == "Active" ? 1 : 0

  role       = aws_iam_role.this.name
  policy_arn = "arn:${split(":", aws_iam_role.this.arn)[1]}:iam::aws:policy/AWSXRayDaemonWriteAccess"
}

resource "aws_lambda_function" "this" {
  #checkov:skip=CKV_AWS_116:A dead-letter queue of a function is for asynchronous calls; here SQS redrives, into the queue's own.
  function_name = local.function_name
  description   = "Runs tasks of ${var.app}."
  role          = aws_iam_role.this.arn
  handler       = var.handler
  runtime       = var.runtime
  architectures = [var.architecture]
  memory_size   = var.memory_size
  timeout       = var.timeout
  layers        = var.layers

  filename          = var.package.filename
  s3_bucket         = var.package.s3_bucket
  s3_key            = var.package.s3_key
  s3_object_version = var.package.s3_object_version
  source_code_hash  = var.package.filename == null ? var.package.source_code_hash : coalesce(var.package.source_code_hash, try(filebase64sha256(var.package.filename), null))

  reserved_concurrent_executions = var.reserved_concurrency == null ? -1 : var.reserved_concurrency
  code_signing_config_arn        = var.code_signing_config_arn
  kms_key_arn                    = var.kms_key_arn

  environment {
    variables = merge(var.environment, { CLOUDQ_APP = var.app, CLOUDQ_ENV = "production" })
  }

  ephemeral_storage {
    size = var.ephemeral_storage
  }

  tracing_config {
    mode = var.tracing
  }

  dynamic "vpc_config" {
    for_each = var.vpc[*]
    content {
      subnet_ids         = vpc_config.value.subnet_ids
      security_group_ids = vpc_config.value.security_group_ids
    }
  }

  tags = var.tags

  # The first invocation needs them, and Lambda would make a log group without retention.
  depends_on = [aws_iam_role_policy.this, aws_cloudwatch_log_group.this]
}

resource "aws_lambda_event_source_mapping" "this" {
  for_each = var.queues

  function_name                      = aws_lambda_function.this.arn
  event_source_arn                   = each.value.queue.arn
  enabled                            = each.value.enabled
  batch_size                         = each.value.batch_size
  maximum_batching_window_in_seconds = each.value.queue.fifo ? null : each.value.maximum_batching_window_in_seconds
  function_response_types            = ["ReportBatchItemFailures"]
  tags                               = var.tags

  dynamic "scaling_config" {
    for_each = each.value.maximum_concurrency[*]
    content {
      maximum_concurrency = scaling_config.value
    }
  }

  dynamic "provisioned_poller_config" {
    for_each = each.value.provisioned_pollers[*]
    content {
      minimum_pollers = provisioned_poller_config.value.minimum
      maximum_pollers = provisioned_poller_config.value.maximum
    }
  }

  lifecycle {
    precondition {
      condition     = each.value.queue.visibility_timeout_seconds >= 6 * var.timeout + each.value.maximum_batching_window_in_seconds
      error_message = "The queue ${each.value.queue.name} hides messages for ${each.value.queue.visibility_timeout_seconds} s, and this function may take ${var.timeout} s: set the queue's visibility_timeout_seconds to at least ${6 * var.timeout + each.value.maximum_batching_window_in_seconds} (six times the timeout, plus the batching window: AWS's advice), or the function's timeout to less."
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "errors" {
  count = var.alarms.enabled ? 1 : 0

  alarm_name          = "${local.function_name}-errors"
  alarm_description   = "Invocations of ${local.function_name} failed as a whole: it could not start, ran out of memory or of time. A failed task is no error."
  namespace           = "AWS/Lambda"
  metric_name         = "Errors"
  dimensions          = { FunctionName = local.function_name }
  statistic           = "Sum"
  period              = 60
  evaluation_periods  = 1
  comparison_operator = "GreaterThanOrEqualToThreshold"
  threshold           = var.alarms.errors
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.alarms.actions
  ok_actions          = var.alarms.actions
  tags                = var.tags
}

resource "aws_cloudwatch_metric_alarm" "throttles" {
  count = var.alarms.enabled ? 1 : 0

  alarm_name          = "${local.function_name}-throttles"
  alarm_description   = "Invocations of ${local.function_name} were refused for lack of concurrency: set maximum_concurrency on its queues, or raise the account's limit."
  namespace           = "AWS/Lambda"
  metric_name         = "Throttles"
  dimensions          = { FunctionName = local.function_name }
  statistic           = "Sum"
  period              = 60
  evaluation_periods  = 5
  comparison_operator = "GreaterThanOrEqualToThreshold"
  threshold           = var.alarms.throttles
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.alarms.actions
  ok_actions          = var.alarms.actions
  tags                = var.tags
}

resource "aws_cloudwatch_metric_alarm" "duration" {
  count = var.alarms.enabled ? 1 : 0

  alarm_name          = "${local.function_name}-duration"
  alarm_description   = "Batches of ${local.function_name} take nearly the whole timeout of ${var.timeout} s: lower batch_size, or raise timeout and the queues' visibility."
  namespace           = "AWS/Lambda"
  metric_name         = "Duration"
  dimensions          = { FunctionName = local.function_name }
  statistic           = "Maximum"
  period              = 60
  evaluation_periods  = 3
  comparison_operator = "GreaterThanThreshold"
  threshold           = var.timeout * 1000 * var.alarms.duration_share
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.alarms.actions
  ok_actions          = var.alarms.actions
  tags                = var.tags
}
