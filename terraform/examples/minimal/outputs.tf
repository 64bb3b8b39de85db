output "environment" {
  description = "CLOUDQ_* variables of whoever calls the tasks, and of workers."
  value       = merge(module.orders.environment, module.results.environment)
}

output "publisher_policies" {
  description = "IAM policy documents of whoever calls the tasks."
  value       = [module.orders.policies["publisher"], module.results.policies["publisher"]]
}

output "worker_policies" {
  description = "IAM policy documents of workers."
  value       = [module.orders.policies["worker"], module.results.policies["worker"]]
}
