# `cloudq iam ROLE --schedule-group ... --scheduler-role ...` prints the same statements.
locals {
  passing = [
    {
      Effect    = "Allow"
      Action    = ["iam:PassRole"]
      Resource  = [aws_iam_role.this.arn]
      Condition = { StringEquals = { "iam:PassedToService" = "scheduler.amazonaws.com" } }
    },
  ]
  make = concat([
    { Effect = "Allow", Action = ["scheduler:CreateSchedule", "scheduler:DeleteSchedule", "scheduler:GetSchedule"], Resource = [local.members] },
  ], local.passing)
  call = concat([
    { Effect = "Allow", Action = ["scheduler:CreateSchedule", "scheduler:GetSchedule"], Resource = [local.members] },
  ], local.passing)
  sync = concat([
    { Effect = "Allow", Action = ["scheduler:CreateScheduleGroup", "scheduler:GetScheduleGroup"], Resource = [local.group_arn] },
    # Whatever group is asked for, EventBridge checks this one: ListSchedules has no narrower resource.
    { Effect = "Allow", Action = ["scheduler:ListSchedules"], Resource = ["${split(":schedule-group/", local.group_arn)[0]}:schedule/*/*"] },
    {
      Effect   = "Allow"
      Action   = ["scheduler:CreateSchedule", "scheduler:DeleteSchedule", "scheduler:GetSchedule", "scheduler:UpdateSchedule"]
      Resource = [local.members]
    },
  ], local.passing)
}

output "policies" {
  description = "IAM policy documents (JSON) for making schedules in this group (delays of any length): publisher, worker, lambda, operator, api; sync for `cloudq schedule sync`."
  value = { for role, statements in {
    publisher = local.make
    worker    = local.make
    lambda    = local.make
    operator  = local.make
    api       = local.call # it revokes nothing
    sync      = local.sync
  } : role => jsonencode({ Version = "2012-10-17", Statement = statements }) }
}

output "environment" {
  description = "CLOUDQ_* variables of an app whose long delays EventBridge keeps."
  value = merge({
    CLOUDQ_DELAY_TIER         = "scheduler"
    CLOUDQ_SCHEDULER_GROUP    = aws_scheduler_schedule_group.this.name
    CLOUDQ_SCHEDULER_ROLE_ARN = aws_iam_role.this.arn
  }, var.dead_letter_queue_arn == null ? {} : { CLOUDQ_SCHEDULER_DEAD_LETTER_ARN = var.dead_letter_queue_arn })
}

output "group_name" {
  description = "Name of the schedule group."
  value       = aws_scheduler_schedule_group.this.name
}

output "group_arn" {
  description = "ARN of the schedule group."
  value       = local.group_arn
}

output "role_arn" {
  description = "ARN of the role that schedules send with."
  value       = aws_iam_role.this.arn
}

output "role_policy" {
  description = "That role's policy document (JSON), or null when it may do nothing."
  value       = try(aws_iam_role_policy.this[0].policy, null)
}
