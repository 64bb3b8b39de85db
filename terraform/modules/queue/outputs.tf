# Policies are outputs of the module that owns the resource: `cloudq iam ROLE` prints the same statements.
locals {
  kms_send    = var.kms_key_arn == null ? [] : [{ Effect = "Allow", Action = ["kms:Decrypt", "kms:GenerateDataKey"], Resource = [var.kms_key_arn] }]
  kms_receive = local.kms_send # a worker also sends: retries, links, chords
  consumer = concat([
    {
      Effect   = "Allow"
      Action   = ["sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:GetQueueUrl", "sqs:ReceiveMessage", "sqs:SendMessage"]
      Resource = [aws_sqs_queue.this.arn]
    },
    {
      Effect   = "Allow"
      Action   = ["sqs:GetQueueUrl", "sqs:SendMessage"]
      Resource = [aws_sqs_queue.dead_letters.arn]
    },
  ], local.kms_receive)
  statements = {
    publisher = concat([
      { Effect = "Allow", Action = ["sqs:GetQueueUrl", "sqs:SendMessage"], Resource = [aws_sqs_queue.this.arn] },
    ], local.kms_send)
    worker = local.consumer
    lambda = local.consumer
    scheduler = concat([
      { Effect = "Allow", Action = ["sqs:SendMessage"], Resource = [aws_sqs_queue.this.arn] },
    ], local.kms_send)
    dashboard = [
      { Effect = "Allow", Action = ["sqs:GetQueueAttributes", "sqs:GetQueueUrl"], Resource = [aws_sqs_queue.this.arn, aws_sqs_queue.dead_letters.arn] },
    ]
    redrive = concat([
      { Effect = "Allow", Action = ["sqs:GetQueueAttributes", "sqs:GetQueueUrl", "sqs:SendMessage"], Resource = [aws_sqs_queue.this.arn] },
      {
        Effect   = "Allow"
        Action   = ["sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "sqs:GetQueueUrl", "sqs:ReceiveMessage"]
        Resource = [aws_sqs_queue.dead_letters.arn]
      },
    ], local.kms_receive)
    operator = concat([
      { Effect = "Allow", Action = ["sqs:GetQueueAttributes", "sqs:GetQueueUrl", "sqs:SendMessage"], Resource = [aws_sqs_queue.this.arn] },
      {
        Effect   = "Allow"
        Action   = ["sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:GetQueueUrl", "sqs:ReceiveMessage"]
        Resource = [aws_sqs_queue.dead_letters.arn]
      },
    ], local.kms_receive)
    api = concat([
      { Effect = "Allow", Action = ["sqs:GetQueueUrl", "sqs:SendMessage"], Resource = [aws_sqs_queue.this.arn] },
    ], local.kms_send)
    sync = [
      { Effect = "Allow", Action = ["sqs:GetQueueUrl"], Resource = [aws_sqs_queue.this.arn] },
    ]
  }
}

output "policies" {
  description = "IAM policy documents (JSON) on these queues, by role: publisher, worker, lambda, scheduler, dashboard, operator, redrive, api, sync."
  value       = { for role, statements in local.statements : role => jsonencode({ Version = "2012-10-17", Statement = statements }) }
}

output "environment" {
  description = "CLOUDQ_* variables of an app whose default queue this is."
  value = {
    CLOUDQ_BROKER_URL         = "sqs://?region=${local.region}&max_body=${var.max_message_size}${var.name_prefix == "" ? "" : "&queue_name_prefix=${var.name_prefix}"}"
    CLOUDQ_TASK_DEFAULT_QUEUE = var.name
    CLOUDQ_ENV                = "production"
  }
}

output "queue" {
  description = "The queue as the worker modules take it."
  value = {
    name                       = var.name
    arn                        = aws_sqs_queue.this.arn
    sqs_name                   = aws_sqs_queue.this.name
    fifo                       = var.fifo
    visibility_timeout_seconds = var.visibility_timeout_seconds
    max_receive_count          = var.max_receive_count
    dead_letter_sqs_name       = aws_sqs_queue.dead_letters.name
  }
}

output "name" {
  description = "The queue's name as the app says it."
  value       = var.name
}

output "arn" {
  description = "The queue's ARN."
  value       = aws_sqs_queue.this.arn
}

output "url" {
  description = "The queue's URL."
  value       = aws_sqs_queue.this.url
}

output "dead_letter_name" {
  description = "The dead-letter queue's name as the app says it."
  value       = local.dead_name
}

output "dead_letter_arn" {
  description = "The dead-letter queue's ARN."
  value       = aws_sqs_queue.dead_letters.arn
}

output "dead_letter_sqs_name" {
  description = "The dead-letter queue's name in SQS, for dashboards."
  value       = aws_sqs_queue.dead_letters.name
}

output "alarm_arns" {
  description = "ARNs of the alarms, for the dashboard-alarms module."
  value       = [for each in concat(aws_cloudwatch_metric_alarm.depth, aws_cloudwatch_metric_alarm.age, aws_cloudwatch_metric_alarm.dead_letters) : each.arn]
}
