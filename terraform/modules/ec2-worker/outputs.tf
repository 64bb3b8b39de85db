output "autoscaling_group_name" {
  description = "Name of the Auto Scaling group."
  value       = aws_autoscaling_group.this.name
}

output "autoscaling_group_arn" {
  description = "ARN of the Auto Scaling group."
  value       = aws_autoscaling_group.this.arn
}

output "role_name" {
  description = "Name of the workers' role, to attach what your tasks need."
  value       = aws_iam_role.this.name
}

output "role_arn" {
  description = "ARN of the workers' role."
  value       = aws_iam_role.this.arn
}

output "policy" {
  description = "The role's own policy document (JSON)."
  value       = aws_iam_role_policy.this.policy
}

output "security_group_id" {
  description = "The workers' security group."
  value       = aws_security_group.this.id
}

output "command" {
  description = "The worker's command line."
  value       = local.command
}

output "user_data" {
  description = "What an instance runs when it starts."
  value       = local.user_data
}

output "log_group_name" {
  description = "Name of the log group."
  value       = aws_cloudwatch_log_group.this.name
}
