# One queue, its dead-letter queue, who may use them how, and alarms.

locals {
  base      = trimsuffix(var.name, ".fifo")
  suffix    = var.fifo ? ".fifo" : ""
  dead_name = "${local.base}-dlq${local.suffix}" # cloudq's own rule for the name
  tags      = merge({ "cloudq:queue" = var.name }, var.tags)
  # The ARN tells region and account, so the module asks nobody for them.
  arn_parts = split(":", aws_sqs_queue.this.arn)
  region    = local.arn_parts[3]
}

resource "aws_sqs_queue" "dead_letters" {
  name = "${var.name_prefix}${local.dead_name}"

  fifo_queue                  = var.fifo ? true : null
  content_based_deduplication = var.fifo ? coalesce(var.content_based_deduplication, true) : null
  deduplication_scope         = var.fifo ? "messageGroup" : null
  fifo_throughput_limit       = var.fifo ? "perMessageGroupId" : null

  message_retention_seconds  = var.dead_letter_retention_seconds
  max_message_size           = var.max_message_size
  receive_wait_time_seconds  = var.receive_wait_time_seconds
  visibility_timeout_seconds = 60

  sqs_managed_sse_enabled           = var.kms_key_arn == null ? true : null
  kms_master_key_id                 = var.kms_key_arn
  kms_data_key_reuse_period_seconds = var.kms_key_arn == null ? null : var.kms_data_key_reuse_period_seconds

  tags = merge(local.tags, { "cloudq:role" = "dead-letters" })
}

resource "aws_sqs_queue" "this" {
  name = "${var.name_prefix}${var.name}"

  fifo_queue                  = var.fifo ? true : null
  content_based_deduplication = var.fifo ? coalesce(var.content_based_deduplication, true) : null
  deduplication_scope         = var.fifo ? "messageGroup" : null
  fifo_throughput_limit       = var.fifo ? "perMessageGroupId" : null

  visibility_timeout_seconds = var.visibility_timeout_seconds
  message_retention_seconds  = var.message_retention_seconds
  max_message_size           = var.max_message_size
  receive_wait_time_seconds  = var.receive_wait_time_seconds

  sqs_managed_sse_enabled           = var.kms_key_arn == null ? true : null
  kms_master_key_id                 = var.kms_key_arn
  kms_data_key_reuse_period_seconds = var.kms_key_arn == null ? null : var.kms_data_key_reuse_period_seconds

  redrive_policy = jsonencode({
    deadLetterTargetArn = aws_sqs_queue.dead_letters.arn
    maxReceiveCount     = var.max_receive_count
  })

  tags = merge(local.tags, { "cloudq:role" = "tasks" })
}

# Only this queue may redrive into its dead-letter queue.
resource "aws_sqs_queue_redrive_allow_policy" "dead_letters" {
  queue_url = aws_sqs_queue.dead_letters.url

  redrive_allow_policy = jsonencode({
    redrivePermission = "byQueue"
    sourceQueueArns   = [aws_sqs_queue.this.arn]
  })
}

# Who may use the queues is said by the roles' policies (outputs.tf); these only refuse plain HTTP. The
# wildcards belong to a Deny, which is complete only so.
resource "aws_sqs_queue_policy" "tls_only" {
  for_each = {
    tasks        = aws_sqs_queue.this
    dead_letters = aws_sqs_queue.dead_letters
  }

  queue_url = each.value.url
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "TlsOnly"
      Effect    = "Deny"
      Principal = "*"
      Action    = "sqs:*"
      Resource  = each.value.arn
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }]
  })
}

resource "aws_cloudwatch_metric_alarm" "depth" {
  count = var.alarms.enabled ? 1 : 0

  alarm_name          = "${aws_sqs_queue.this.name}-depth"
  alarm_description   = "More than ${var.alarms.depth} tasks wait in ${aws_sqs_queue.this.name}: workers are too few, too slow or down."
  namespace           = "AWS/SQS"
  metric_name         = "ApproximateNumberOfMessagesVisible"
  dimensions          = { QueueName = aws_sqs_queue.this.name }
  statistic           = "Maximum"
  period              = 60
  evaluation_periods  = 5
  comparison_operator = "GreaterThanThreshold"
  threshold           = var.alarms.depth
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.alarms.actions
  ok_actions          = var.alarms.actions
  tags                = local.tags
}

resource "aws_cloudwatch_metric_alarm" "age" {
  count = var.alarms.enabled ? 1 : 0

  alarm_name          = "${aws_sqs_queue.this.name}-age"
  alarm_description   = "The oldest task in ${aws_sqs_queue.this.name} has waited for more than ${var.alarms.age_seconds} s."
  namespace           = "AWS/SQS"
  metric_name         = "ApproximateAgeOfOldestMessage"
  dimensions          = { QueueName = aws_sqs_queue.this.name }
  statistic           = "Maximum"
  period              = 60
  evaluation_periods  = 3
  comparison_operator = "GreaterThanThreshold"
  threshold           = var.alarms.age_seconds
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.alarms.actions
  ok_actions          = var.alarms.actions
  tags                = local.tags
}

resource "aws_cloudwatch_metric_alarm" "dead_letters" {
  count = var.alarms.enabled ? 1 : 0

  alarm_name          = "${aws_sqs_queue.dead_letters.name}-dead-letters"
  alarm_description   = "Messages of ${aws_sqs_queue.this.name} were buried: look with `cloudq dlq list ${var.name}`."
  namespace           = "AWS/SQS"
  metric_name         = "ApproximateNumberOfMessagesVisible"
  dimensions          = { QueueName = aws_sqs_queue.dead_letters.name }
  statistic           = "Maximum"
  period              = 60
  evaluation_periods  = 1
  comparison_operator = "GreaterThanOrEqualToThreshold"
  threshold           = var.alarms.dead_letters
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.alarms.actions
  ok_actions          = var.alarms.actions
  tags                = local.tags
}
