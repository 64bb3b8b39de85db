output "environment" {
  description = "CLOUDQ_* variables of whoever calls the tasks."
  value       = local.environment
}

output "publisher_policies" {
  description = "IAM policy documents of whoever calls the tasks."
  value = [
    module.orders.policies["publisher"], module.reports.policies["publisher"],
    module.results.policies["publisher"], module.schedule.policies["publisher"],
  ]
}

output "function_name" {
  description = "The Lambda function."
  value       = module.function.function_name
}

output "function_log_group" {
  description = "Its logs."
  value       = module.function.log_group_name
}

output "worker_user_data" {
  description = "What an instance runs when it starts."
  value       = module.workers.user_data
}

output "worker_command" {
  description = "The workers' command line."
  value       = module.workers.command
}

output "policies" {
  description = "All policy documents of the modules, by module and role."
  value = {
    orders   = module.orders.policies
    reports  = module.reports.policies
    results  = module.results.policies
    schedule = module.schedule.policies
    function = { lambda = module.function.policy }
    workers  = { worker = module.workers.policy }
  }
}

output "dashboard_url" {
  description = "The dashboard."
  value       = module.dashboard.dashboard_url
}
