# A group of EventBridge schedules, and the role that they send with.

locals {
  group_arn = aws_scheduler_schedule_group.this.arn
  account   = split(":", local.group_arn)[4]
  # schedule-group/NAME holds the schedules schedule/NAME/...
  members    = "${replace(local.group_arn, ":schedule-group/", ":schedule/")}/*"
  statements = flatten([for each in var.policies : jsondecode(each).Statement])
}

resource "aws_scheduler_schedule_group" "this" {
  name = var.name
  tags = var.tags
}

resource "aws_iam_role" "this" {
  name        = "${var.name}-scheduler"
  description = "EventBridge schedules of the group ${var.name}."
  # Only schedules of this group, of this account, may take the role (the confused deputy). AWS wants the group here,
  # not a schedule's own ARN.
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "scheduler.amazonaws.com" }
      Action    = "sts:AssumeRole"
      Condition = { StringEquals = { "aws:SourceAccount" = local.account, "aws:SourceArn" = local.group_arn } }
    }]
  })
  tags = var.tags
}

locals {
  own = concat(
    local.statements,
    var.dead_letter_queue_arn == null ? [] : [{ Effect = "Allow", Action = ["sqs:SendMessage"], Resource = [var.dead_letter_queue_arn] }],
    var.beat == null ? [] : [{ Effect = "Allow", Action = ["lambda:InvokeFunction"], Resource = [try(var.beat.function_arn, "")] }],
    var.kms_key_arn == null ? [] : [{ Effect = "Allow", Action = ["kms:Decrypt"], Resource = [var.kms_key_arn] }],
  )
  # Known while planning, as ARNs are not. Without either, nothing could be sent.
  may_do_something = length(var.policies) > 0 || var.beat != null
}

resource "aws_iam_role_policy" "this" {
  count = local.may_do_something ? 1 : 0

  name   = "cloudq"
  role   = aws_iam_role.this.id
  policy = jsonencode({ Version = "2012-10-17", Statement = local.own })
}

resource "aws_scheduler_schedule" "this" {
  for_each = var.schedules

  name                         = each.key
  group_name                   = aws_scheduler_schedule_group.this.name
  description                  = each.value.description
  schedule_expression          = each.value.expression
  schedule_expression_timezone = each.value.timezone
  state                        = each.value.enabled ? "ENABLED" : "DISABLED"
  start_date                   = each.value.start
  end_date                     = each.value.end
  kms_key_arn                  = var.kms_key_arn

  flexible_time_window {
    mode                      = each.value.flexible_window_minutes == 0 ? "OFF" : "FLEXIBLE"
    maximum_window_in_minutes = each.value.flexible_window_minutes == 0 ? null : each.value.flexible_window_minutes
  }

  target {
    arn      = each.value.queue.arn
    role_arn = aws_iam_role.this.arn
    # The smallest message there is; the task's id is then the SQS message's.
    input = jsonencode({ task = each.value.task, args = jsondecode(each.value.args), kwargs = jsondecode(each.value.kwargs) })

    retry_policy {
      maximum_event_age_in_seconds = each.value.max_age_seconds
      maximum_retry_attempts       = each.value.max_attempts
    }

    dynamic "sqs_parameters" {
      for_each = each.value.group_id[*]
      content {
        message_group_id = sqs_parameters.value
      }
    }

    dynamic "dead_letter_config" {
      for_each = var.dead_letter_queue_arn[*]
      content {
        arn = dead_letter_config.value
      }
    }
  }

  lifecycle {
    precondition {
      condition     = length(var.policies) > 0
      error_message = "The schedule ${each.key} could send nothing: give policies = [module.QUEUE.policies[\"scheduler\"]] of its queue."
    }
  }

  depends_on = [aws_iam_role_policy.this]
}

resource "aws_scheduler_schedule" "beat" {
  count = var.beat == null ? 0 : 1

  name                = "${var.name}-beat"
  group_name          = aws_scheduler_schedule_group.this.name
  description         = "Calls the beat function, which sends what is due."
  schedule_expression = "rate(1 minute)"
  state               = var.beat.enabled ? "ENABLED" : "DISABLED"
  kms_key_arn         = var.kms_key_arn

  flexible_time_window {
    mode = "OFF"
  }

  target {
    arn      = var.beat.function_arn
    role_arn = aws_iam_role.this.arn
    input    = jsonencode({})

    # The next minute's call sends what this one should have.
    retry_policy {
      maximum_event_age_in_seconds = 60
      maximum_retry_attempts       = 0
    }
  }

  depends_on = [aws_iam_role_policy.this]
}
