output "environment" {
  description = "CLOUDQ_* variables of whoever calls the tasks."
  value       = merge(module.orders.environment, module.results.environment)
}

output "publisher_policies" {
  description = "IAM policy documents of whoever calls the tasks."
  value       = [module.orders.policies["publisher"], module.results.policies["publisher"]]
}
