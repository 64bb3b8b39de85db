mock_provider "aws" {
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/shop-task" }
  }
  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:eu-west-1:123456789012:log-group:/cloudq/worker/shop" }
  }
  mock_resource "aws_ecs_cluster" {
    defaults = { arn = "arn:aws:ecs:eu-west-1:123456789012:cluster/shop" }
  }
  mock_resource "aws_ecs_task_definition" {
    defaults = { arn = "arn:aws:ecs:eu-west-1:123456789012:task-definition/shop:1" }
  }
  mock_resource "aws_appautoscaling_policy" {
    defaults = { arn = "arn:aws:autoscaling:eu-west-1:123456789012:scalingPolicy:1" }
  }
}

variables {
  name  = "shop"
  app   = "shop.tasks:app"
  image = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/shop:1"
  queues = [
    { name = "fast", sqs_name = "prod-fast", arn = "arn:aws:sqs:eu-west-1:123456789012:prod-fast", fifo = false },
  ]
  environment          = { CLOUDQ_BROKER_URL = "sqs://?region=eu-west-1" }
  image_repository_arn = "arn:aws:ecr:eu-west-1:123456789012:repository/shop"
  policies = [
    "{\"Version\":\"2012-10-17\",\"Statement\":[{\"Effect\":\"Allow\",\"Action\":[\"sqs:ReceiveMessage\"],\"Resource\":[\"arn:aws:sqs:eu-west-1:123456789012:prod-fast\"]}]}",
  ]
  vpc_id     = "vpc-1"
  subnet_ids = ["subnet-1"]
}

run "a_container_runs_the_worker_read_only_and_is_given_time_to_drain" {
  assert {
    condition     = jsondecode(aws_ecs_task_definition.this.container_definitions)[0].command == ["cloudq", "worker", "-A", "shop.tasks:app", "--queue", "fast", "--pool", "prefork", "--shutdown-timeout", "100"]
    error_message = aws_ecs_task_definition.this.container_definitions
  }
  assert {
    condition     = jsondecode(aws_ecs_task_definition.this.container_definitions)[0].readonlyRootFilesystem && jsondecode(aws_ecs_task_definition.this.container_definitions)[0].stopTimeout == 110
    error_message = aws_ecs_task_definition.this.container_definitions
  }
  assert {
    condition     = contains(jsondecode(aws_ecs_task_definition.this.container_definitions)[0].environment, { name = "CLOUDQ_BROKER_URL", value = "sqs://?region=eu-west-1" })
    error_message = aws_ecs_task_definition.this.container_definitions
  }
}

run "its_roles_may_do_what_they_need_and_no_more" {
  assert {
    condition     = jsondecode(aws_iam_role_policy.task[0].policy).Statement == [{ Effect = "Allow", Action = ["sqs:ReceiveMessage"], Resource = ["arn:aws:sqs:eu-west-1:123456789012:prod-fast"] }]
    error_message = aws_iam_role_policy.task[0].policy
  }
  assert {
    condition     = [for each in jsondecode(aws_iam_role_policy.execution.policy).Statement : each.Resource] == [["arn:aws:logs:eu-west-1:123456789012:log-group:/cloudq/worker/shop:*"], [var.image_repository_arn]]
    error_message = aws_iam_role_policy.execution.policy
  }
  assert {
    condition     = length(aws_iam_role_policy_attachment.pull) == 1
    error_message = "an ECR image needs a token"
  }
}

run "scaling_follows_the_backlog_of_each_container" {
  assert {
    condition     = aws_appautoscaling_target.this.resource_id == "service/shop/shop"
    error_message = aws_appautoscaling_target.this.resource_id
  }
  assert {
    condition     = one([for each in aws_appautoscaling_policy.backlog.target_tracking_scaling_policy_configuration[0].customized_metric_specification[0].metrics : each.expression if each.return_data]) == "(q0) / IF(FILL(running, 0) > 0, FILL(running, 0), 1)"
    error_message = "backlog per container"
  }
  assert {
    condition     = one([for each in aws_ecs_cluster.this[0].setting : each.value if each.name == "containerInsights"]) == "enabled"
    error_message = "which Container Insights counts"
  }
}

run "the_oldest_ones_age_adds_containers_too" {
  variables {
    oldest_seconds = 300
  }
  assert {
    condition     = one([for each in aws_appautoscaling_policy.backlog.target_tracking_scaling_policy_configuration[0].customized_metric_specification[0].metrics : each.expression if each.return_data]) == "MAX([(q0) / IF(FILL(running, 0) > 0, FILL(running, 0), 1), IF(FILL(q0, 0) > 0, FILL(a0, 0), 0) * 100 / 300])"
    error_message = "backlog per container, or the age"
  }
  assert {
    condition     = one([for each in aws_appautoscaling_policy.backlog.target_tracking_scaling_policy_configuration[0].customized_metric_specification[0].metrics : one(one(each.metric_stat).metric).metric_name if each.id == "a0"]) == "ApproximateAgeOfOldestMessage"
    error_message = "the age is SQS's own"
  }
}

run "a_service_may_sleep_in_a_cluster_of_yours_with_secrets" {
  variables {
    create_cluster = false
    cluster_arn    = "arn:aws:ecs:eu-west-1:123456789012:cluster/main"
    image          = "docker.io/shop/worker:1"
    capacity       = { min = 0, max = 2, spot_percentage = 100 }
    secrets        = { DATABASE_URL = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:db-abcdef" }
  }
  assert {
    condition     = length(aws_ecs_cluster.this) == 0 && aws_appautoscaling_target.this.resource_id == "service/main/shop"
    error_message = aws_appautoscaling_target.this.resource_id
  }
  assert {
    condition     = aws_cloudwatch_metric_alarm.wake[0].alarm_actions == toset([aws_appautoscaling_policy.wake[0].arn])
    error_message = "waiting tasks wake it"
  }
  assert {
    condition     = jsondecode(aws_ecs_task_definition.this.container_definitions)[0].secrets == [{ name = "DATABASE_URL", valueFrom = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:db-abcdef" }]
    error_message = aws_ecs_task_definition.this.container_definitions
  }
}

run "an_age_of_nothing_is_refused" {
  command = plan
  variables {
    oldest_seconds = 0
  }
  expect_failures = [var.oldest_seconds]
}

run "impossible_values_are_refused" {
  command = plan
  variables {
    app              = "shop"
    queues           = []
    pool             = "gevent"
    concurrency      = 0
    architecture     = "arm64"
    cpu              = 300
    create_cluster   = false
    capacity         = { min = 2, max = 1 }
    backlog_per_task = 0
    drain_seconds    = 111
    secrets          = { A = "db" }
    subnet_ids       = []
  }
  expect_failures = [
    var.app, var.queues, var.pool, var.concurrency, var.architecture, var.cpu, var.create_cluster, var.capacity,
    var.backlog_per_task, var.drain_seconds, var.secrets, var.subnet_ids,
  ]
}

run "memory_fits_the_cpu" {
  command = plan
  variables {
    cpu    = 1024
    memory = 1024
  }
  expect_failures = [var.memory]
}
