output "dashboard_name" {
  description = "Name of the dashboard."
  value       = aws_cloudwatch_dashboard.this.dashboard_name
}

output "dashboard_url" {
  description = "Where to look at it."
  value       = "https://${var.region}.console.aws.amazon.com/cloudwatch/home?region=${var.region}#dashboards:name=${var.name}"
}

output "alarm_arn" {
  description = "ARN of the alarm over all alarms, or null."
  value       = try(aws_cloudwatch_composite_alarm.any[0].arn, null)
}
