mock_provider "aws" {}

variables {
  name               = "shop"
  region             = "eu-west-1"
  queues             = [{ name = "orders", sqs_name = "prod-orders", dead_letter_sqs_name = "prod-orders-dlq" }]
  functions          = ["shop-orders"]
  autoscaling_groups = ["shop-reports"]
  services           = [{ cluster = "shop", service = "shop" }]
  table_name         = "shop-results"
  alarm_arns         = ["arn:aws:cloudwatch:eu-west-1:123456789012:alarm:a", "arn:aws:cloudwatch:eu-west-1:123456789012:alarm:b"]
}

run "everything_is_on_the_dashboard" {
  assert {
    condition     = length(jsondecode(aws_cloudwatch_dashboard.this.dashboard_body).widgets) == 1 + 4 + 3 + 1 + 1 + 2
    error_message = aws_cloudwatch_dashboard.this.dashboard_body
  }
  assert {
    condition     = jsondecode(aws_cloudwatch_dashboard.this.dashboard_body).widgets[4].properties.metrics[0][3] == "prod-orders-dlq"
    error_message = aws_cloudwatch_dashboard.this.dashboard_body
  }
  assert {
    condition     = length(distinct([for each in jsondecode(aws_cloudwatch_dashboard.this.dashboard_body).widgets : "${each.x} ${each.y}"])) == 12
    error_message = "no graph lies over another"
  }
  assert {
    condition     = aws_cloudwatch_composite_alarm.any[0].alarm_rule == "ALARM(\"${var.alarm_arns[0]}\") OR ALARM(\"${var.alarm_arns[1]}\")"
    error_message = aws_cloudwatch_composite_alarm.any[0].alarm_rule
  }
}

run "an_empty_dashboard_is_refused" {
  command = plan
  variables {
    queues             = []
    functions          = []
    autoscaling_groups = []
    services           = []
    table_name         = null
    alarm_arns         = []
  }
  expect_failures = [aws_cloudwatch_dashboard.this]
}

run "impossible_values_are_refused" {
  command = plan
  variables {
    name   = "a b"
    region = "Europe"
  }
  expect_failures = [var.name, var.region]
}
