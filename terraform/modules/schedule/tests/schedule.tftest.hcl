mock_provider "aws" {
  mock_resource "aws_scheduler_schedule_group" {
    defaults = { arn = "arn:aws:scheduler:eu-west-1:123456789012:schedule-group/shop" }
  }
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/shop-scheduler" }
  }
}

variables {
  name = "shop"
  policies = [
    "{\"Version\":\"2012-10-17\",\"Statement\":[{\"Effect\":\"Allow\",\"Action\":[\"sqs:SendMessage\"],\"Resource\":[\"arn:aws:sqs:eu-west-1:123456789012:orders\"]}]}",
  ]
  schedules = {
    report = {
      expression = "cron(0 6 * * ? *)"
      timezone   = "Europe/Berlin"
      queue      = { name = "orders", arn = "arn:aws:sqs:eu-west-1:123456789012:orders", fifo = false }
      task       = "shop.tasks.report"
      args       = "[7, \"eu\"]"
      kwargs     = "{\"full\": true}"
    }
  }
}

run "a_schedule_sends_the_smallest_message" {
  assert {
    condition     = jsondecode(aws_scheduler_schedule.this["report"].target[0].input) == { task = "shop.tasks.report", args = [7, "eu"], kwargs = { full = true } }
    error_message = aws_scheduler_schedule.this["report"].target[0].input
  }
  assert {
    condition     = aws_scheduler_schedule.this["report"].schedule_expression_timezone == "Europe/Berlin"
    error_message = "in its own time zone"
  }
  assert {
    condition     = length(aws_scheduler_schedule.beat) == 0
    error_message = "no beat function was given"
  }
}

run "only_schedules_of_this_group_may_take_the_role" {
  assert {
    condition     = jsondecode(aws_iam_role.this.assume_role_policy).Statement[0].Condition == { StringEquals = { "aws:SourceAccount" = "123456789012", "aws:SourceArn" = "arn:aws:scheduler:eu-west-1:123456789012:schedule-group/shop" } }
    error_message = aws_iam_role.this.assume_role_policy
  }
  assert {
    condition     = jsondecode(aws_iam_role_policy.this[0].policy).Statement == [{ Effect = "Allow", Action = ["sqs:SendMessage"], Resource = ["arn:aws:sqs:eu-west-1:123456789012:orders"] }]
    error_message = aws_iam_role_policy.this[0].policy
  }
}

run "its_policies_are_those_that_cloudq_iam_prints" {
  assert {
    condition     = { for role, policy in output.policies : role => jsondecode(policy) } == jsondecode(file("${path.module}/tests/expected/group.json"))
    error_message = "policies differ from tests/expected/group.json: ${jsonencode(output.policies)}"
  }
}

run "a_beat_function_is_called_every_minute_and_failures_are_kept" {
  variables {
    schedules             = {}
    policies              = []
    beat                  = { function_arn = "arn:aws:lambda:eu-west-1:123456789012:function:shop-beat" }
    dead_letter_queue_arn = "arn:aws:sqs:eu-west-1:123456789012:orders-dlq"
  }
  assert {
    condition     = aws_scheduler_schedule.beat[0].schedule_expression == "rate(1 minute)" && aws_scheduler_schedule.beat[0].target[0].arn == var.beat.function_arn
    error_message = "beat ticks each minute"
  }
  assert {
    condition = jsondecode(aws_iam_role_policy.this[0].policy).Statement == [
      { Effect = "Allow", Action = ["sqs:SendMessage"], Resource = ["arn:aws:sqs:eu-west-1:123456789012:orders-dlq"] },
      { Effect = "Allow", Action = ["lambda:InvokeFunction"], Resource = ["arn:aws:lambda:eu-west-1:123456789012:function:shop-beat"] },
    ]
    error_message = aws_iam_role_policy.this[0].policy
  }
  assert {
    condition     = output.environment.CLOUDQ_SCHEDULER_DEAD_LETTER_ARN == var.dead_letter_queue_arn
    error_message = "the app's own schedules use the same dead-letter queue"
  }
}

run "a_fifo_queue_needs_a_group" {
  command = plan
  variables {
    schedules = { bad = { expression = "rate(5 minutes)", task = "t", queue = { name = "o.fifo", arn = "arn:aws:sqs:eu-west-1:123456789012:o.fifo", fifo = true } } }
  }
  expect_failures = [var.schedules]
}

run "a_celery_crontab_is_no_eventbridge_cron" {
  command = plan
  variables {
    schedules = { bad = { expression = "cron(0 6 * * *)", task = "t", queue = { name = "o", arn = "arn:aws:sqs:eu-west-1:123456789012:o", fifo = false } } }
  }
  expect_failures = [var.schedules]
}

run "arguments_are_json" {
  command = plan
  variables {
    schedules = { bad = { expression = "rate(1 hour)", task = "t", args = "{}", queue = { name = "o", arn = "arn:aws:sqs:eu-west-1:123456789012:o", fifo = false } } }
  }
  expect_failures = [var.schedules]
}

run "a_schedule_without_a_right_to_send_is_refused" {
  command = plan
  variables {
    policies = []
  }
  expect_failures = [aws_scheduler_schedule.this["report"]]
}

run "other_impossible_values_are_refused" {
  command = plan
  variables {
    name                  = "a b"
    dead_letter_queue_arn = "arn:aws:sqs:eu-west-1:123456789012:o.fifo"
    kms_key_arn           = "alias/x"
  }
  expect_failures = [var.name, var.dead_letter_queue_arn, var.kms_key_arn]
}
