output "service_name" {
  description = "Name of the service."
  value       = aws_ecs_service.this.name
}

output "cluster_arn" {
  description = "ARN of the cluster."
  value       = local.cluster_arn
}

output "role_name" {
  description = "Name of the containers' role, to attach what your tasks need."
  value       = aws_iam_role.task.name
}

output "role_arn" {
  description = "ARN of the containers' role."
  value       = aws_iam_role.task.arn
}

output "security_group_id" {
  description = "The containers' security group."
  value       = aws_security_group.this.id
}

output "command" {
  description = "The worker's command line."
  value       = local.command
}

output "log_group_name" {
  description = "Name of the log group."
  value       = aws_cloudwatch_log_group.this.name
}
