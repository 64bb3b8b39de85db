output "environment" {
  description = "CLOUDQ_* variables of whoever calls the tasks."
  value       = merge(module.orders.environment, module.results.environment)
}

output "publisher_policies" {
  description = "IAM policy documents of whoever calls the tasks."
  value       = [module.orders.policies["publisher"], module.results.policies["publisher"]]
}

output "autoscaling_group_name" {
  description = "The workers' group."
  value       = module.workers.autoscaling_group_name
}

output "log_group_name" {
  description = "The workers' logs."
  value       = module.workers.log_group_name
}
