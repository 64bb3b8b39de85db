# A CloudWatch dashboard of queues, functions, workers and results; one alarm over all alarms.

locals {
  graph = {
    for key, each in merge(
      merge([for queue in var.queues : {
        "1 ${queue.name} 1" = {
          title = "${queue.name}: waiting, running, delayed"
          stat  = "Maximum"
          metrics = [
            ["AWS/SQS", "ApproximateNumberOfMessagesVisible", "QueueName", queue.sqs_name, { label = "waiting" }],
            ["AWS/SQS", "ApproximateNumberOfMessagesNotVisible", "QueueName", queue.sqs_name, { label = "in workers' hands" }],
            ["AWS/SQS", "ApproximateNumberOfMessagesDelayed", "QueueName", queue.sqs_name, { label = "delayed" }],
          ]
        }
        "1 ${queue.name} 2" = {
          title   = "${queue.name}: age of the oldest (s)"
          stat    = "Maximum"
          metrics = [["AWS/SQS", "ApproximateAgeOfOldestMessage", "QueueName", queue.sqs_name, { label = "age" }]]
        }
        "1 ${queue.name} 3" = {
          title = "${queue.name}: sent and finished"
          stat  = "Sum"
          metrics = [
            ["AWS/SQS", "NumberOfMessagesSent", "QueueName", queue.sqs_name, { label = "sent" }],
            ["AWS/SQS", "NumberOfMessagesDeleted", "QueueName", queue.sqs_name, { label = "finished" }],
          ]
        }
        "1 ${queue.name} 4" = {
          title   = "${queue.name}: dead letters"
          stat    = "Maximum"
          metrics = [["AWS/SQS", "ApproximateNumberOfMessagesVisible", "QueueName", queue.dead_letter_sqs_name, { label = "dead letters" }]]
        }
      }]...),
      merge([for name in var.functions : {
        "2 ${name} 1" = {
          title = "${name}: invocations, errors, throttles"
          stat  = "Sum"
          metrics = [
            ["AWS/Lambda", "Invocations", "FunctionName", name], ["AWS/Lambda", "Errors", "FunctionName", name], ["AWS/Lambda", "Throttles", "FunctionName", name],
          ]
        }
        "2 ${name} 2" = {
          title   = "${name}: duration of a batch (ms)"
          stat    = "p95"
          metrics = [["AWS/Lambda", "Duration", "FunctionName", name, { label = "p95" }], ["AWS/Lambda", "Duration", "FunctionName", name, { stat = "Maximum", label = "longest" }]]
        }
        "2 ${name} 3" = {
          title   = "${name}: at once"
          stat    = "Maximum"
          metrics = [["AWS/Lambda", "ConcurrentExecutions", "FunctionName", name]]
        }
      }]...),
      merge([for name in var.autoscaling_groups : {
        "3 ${name} 1" = {
          title   = "${name}: instances, CPU"
          stat    = "Average"
          metrics = [["AWS/AutoScaling", "GroupInServiceInstances", "AutoScalingGroupName", name], ["AWS/EC2", "CPUUtilization", "AutoScalingGroupName", name, { yAxis = "right" }]]
        }
      }]...),
      merge([for each in var.services : {
        "4 ${each.service} 1" = {
          title   = "${each.service}: containers, CPU"
          stat    = "Average"
          metrics = [["ECS/ContainerInsights", "RunningTaskCount", "ClusterName", each.cluster, "ServiceName", each.service], ["AWS/ECS", "CPUUtilization", "ClusterName", each.cluster, "ServiceName", each.service, { yAxis = "right" }]]
        }
      }]...),
      var.table_name == null ? {} : {
        "5 results 1" = {
          title   = "${var.table_name}: reads and writes"
          stat    = "Sum"
          metrics = [["AWS/DynamoDB", "ConsumedReadCapacityUnits", "TableName", var.table_name], ["AWS/DynamoDB", "ConsumedWriteCapacityUnits", "TableName", var.table_name]]
        }
        "5 results 2" = {
          title   = "${var.table_name}: throttled"
          stat    = "Sum"
          metrics = [["AWS/DynamoDB", "ReadThrottleEvents", "TableName", var.table_name], ["AWS/DynamoDB", "WriteThrottleEvents", "TableName", var.table_name]]
        }
      },
    ) : key => each
  }

  # Four graphs a row, in the order of their keys; alarms on top.
  top = length(var.alarm_arns) == 0 ? 0 : 4
  widgets = concat(
    length(var.alarm_arns) == 0 ? [] : [jsonencode({ type = "alarm", x = 0, y = 0, width = 24, height = 4, properties = { title = "Alarms", alarms = var.alarm_arns } })],
    [for index, key in sort(keys(local.graph)) : jsonencode({
      type       = "metric"
      x          = 6 * (index % 4)
      y          = local.top + 6 * floor(index / 4)
      width      = 6
      height     = 6
      properties = merge(local.graph[key], { view = "timeSeries", region = var.region, period = 60 })
    })],
  )
}

resource "aws_cloudwatch_dashboard" "this" {
  dashboard_name = var.name
  dashboard_body = "{\"widgets\":[${join(",", local.widgets)}]}"

  lifecycle {
    precondition {
      condition     = length(local.widgets) > 0
      error_message = "The dashboard ${var.name} would be empty: name queues, functions, autoscaling_groups, services, table_name or alarm_arns."
    }
    precondition {
      condition     = length(local.widgets) <= 500
      error_message = "The dashboard ${var.name} would have ${length(local.widgets)} graphs; CloudWatch draws 500."
    }
  }
}

resource "aws_cloudwatch_composite_alarm" "any" {
  count = length(var.alarm_arns) > 0 ? 1 : 0

  alarm_name        = "${var.name}-any"
  alarm_description = "At least one alarm of ${var.name} rings."
  alarm_rule        = join(" OR ", [for arn in var.alarm_arns : "ALARM(\"${arn}\")"])
  alarm_actions     = var.alarm_actions
  ok_actions        = var.alarm_actions
  tags              = var.tags
}
