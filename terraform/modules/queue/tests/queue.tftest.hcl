mock_provider "aws" {}

override_resource {
  target = aws_sqs_queue.this
  values = {
    arn = "arn:aws:sqs:eu-west-1:123456789012:prod-orders"
    url = "https://sqs.eu-west-1.amazonaws.com/123456789012/prod-orders"
  }
}

override_resource {
  target = aws_sqs_queue.dead_letters
  values = {
    arn = "arn:aws:sqs:eu-west-1:123456789012:prod-orders-dlq"
    url = "https://sqs.eu-west-1.amazonaws.com/123456789012/prod-orders-dlq"
  }
}

variables {
  name        = "orders"
  name_prefix = "prod-"
}

run "a_queue_has_dead_letters_encryption_and_alarms" {
  assert {
    condition     = aws_sqs_queue.this.name == "prod-orders" && aws_sqs_queue.dead_letters.name == "prod-orders-dlq"
    error_message = "the dead-letter queue is named as cloudq names it"
  }
  assert {
    condition     = jsondecode(aws_sqs_queue.this.redrive_policy) == { deadLetterTargetArn = aws_sqs_queue.dead_letters.arn, maxReceiveCount = 5 }
    error_message = "the queue redrives into its dead-letter queue"
  }
  assert {
    condition     = jsondecode(aws_sqs_queue_redrive_allow_policy.dead_letters.redrive_allow_policy).sourceQueueArns == [aws_sqs_queue.this.arn]
    error_message = "only this queue may redrive there"
  }
  assert {
    condition     = aws_sqs_queue.this.sqs_managed_sse_enabled && aws_sqs_queue.dead_letters.sqs_managed_sse_enabled
    error_message = "both queues are encrypted"
  }
  assert {
    condition     = alltrue([for each in aws_sqs_queue_policy.tls_only : jsondecode(each.policy).Statement[0].Effect == "Deny" && jsondecode(each.policy).Statement[0].Condition.Bool["aws:SecureTransport"] == "false"])
    error_message = "both queues refuse plain HTTP"
  }
  assert {
    condition     = length(aws_cloudwatch_metric_alarm.depth) + length(aws_cloudwatch_metric_alarm.age) + length(aws_cloudwatch_metric_alarm.dead_letters) == 3
    error_message = "there are alarms on depth, age and dead letters"
  }
  assert {
    condition     = aws_cloudwatch_metric_alarm.dead_letters[0].dimensions.QueueName == "prod-orders-dlq"
    error_message = "the dead-letter alarm watches the dead-letter queue"
  }
}

run "its_policies_are_those_that_cloudq_iam_prints" {
  assert {
    condition     = { for role, policy in output.policies : role => jsondecode(policy) } == jsondecode(file("${path.module}/tests/expected/plain.json"))
    error_message = "policies differ from tests/expected/plain.json: ${jsonencode(output.policies)}"
  }
}

run "a_customer_managed_key_is_in_every_sending_role" {
  variables {
    kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/11111111-2222-3333-4444-555555555555"
  }
  assert {
    condition     = { for role, policy in output.policies : role => jsondecode(policy) } == jsondecode(file("${path.module}/tests/expected/kms.json"))
    error_message = "policies differ from tests/expected/kms.json: ${jsonencode(output.policies)}"
  }
  assert {
    condition     = aws_sqs_queue.this.kms_master_key_id == var.kms_key_arn && aws_sqs_queue.dead_letters.kms_master_key_id == var.kms_key_arn
    error_message = "both queues use the key"
  }
}

run "its_environment_configures_the_app" {
  assert {
    condition = output.environment == {
      CLOUDQ_BROKER_URL         = "sqs://?region=eu-west-1&max_body=262144&queue_name_prefix=prod-"
      CLOUDQ_TASK_DEFAULT_QUEUE = "orders"
      CLOUDQ_ENV                = "production"
    }
    error_message = "environment: ${jsonencode(output.environment)}"
  }
}

run "a_fifo_queue_has_a_fifo_dead_letter_queue" {
  variables {
    name        = "orders.fifo"
    name_prefix = ""
    fifo        = true
  }
  assert {
    condition     = aws_sqs_queue.this.name == "orders.fifo" && aws_sqs_queue.dead_letters.name == "orders-dlq.fifo" && aws_sqs_queue.dead_letters.fifo_queue
    error_message = "both are FIFO queues"
  }
  assert {
    condition     = aws_sqs_queue.this.deduplication_scope == "messageGroup" && aws_sqs_queue.this.fifo_throughput_limit == "perMessageGroupId"
    error_message = "high-throughput mode"
  }
  assert {
    condition     = aws_sqs_queue.this.content_based_deduplication
    error_message = "EventBridge sends no deduplication id"
  }
}

run "alarms_can_be_left_out" {
  variables {
    alarms = { enabled = false }
  }
  assert {
    condition     = length(aws_cloudwatch_metric_alarm.depth) == 0
    error_message = "no alarms were wanted"
  }
}

run "a_fifo_name_needs_a_fifo_queue" {
  command = plan
  variables {
    name = "orders.fifo"
  }
  expect_failures = [var.name]
}

run "a_fifo_queue_needs_a_fifo_name" {
  command = plan
  variables {
    fifo = true
  }
  expect_failures = [var.name]
}

run "impossible_values_are_refused" {
  command = plan
  variables {
    visibility_timeout_seconds    = 43201
    max_receive_count             = 0
    message_retention_seconds     = 1209600
    dead_letter_retention_seconds = 60
    receive_wait_time_seconds     = 21
    content_based_deduplication   = true
    kms_key_arn                   = "alias/cloudq"
    max_message_size              = 1
    alarms                        = { depth = 0 }
  }
  expect_failures = [
    var.visibility_timeout_seconds,
    var.max_receive_count,
    var.dead_letter_retention_seconds,
    var.receive_wait_time_seconds,
    var.content_based_deduplication,
    var.kms_key_arn,
    var.max_message_size,
    var.alarms,
  ]
}
