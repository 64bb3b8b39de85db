output "environment" {
  description = "CLOUDQ_* variables of whoever calls the tasks."
  value       = local.environment
}

output "publisher_policies" {
  description = "IAM policy documents of whoever calls the tasks."
  value       = [module.orders.policies["publisher"], module.results.policies["publisher"], module.schedule.policies["publisher"]]
}

output "log_group_name" {
  description = "The function's logs."
  value       = module.function.log_group_name
}
