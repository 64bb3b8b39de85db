mock_provider "aws" {
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/shop-worker" }
  }
  mock_resource "aws_iam_instance_profile" {
    defaults = { arn = "arn:aws:iam::123456789012:instance-profile/shop-worker" }
  }
  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:eu-west-1:123456789012:log-group:/cloudq/worker/shop" }
  }
  mock_resource "aws_launch_template" {
    defaults = { id = "lt-0123456789abcdef0", latest_version = 1 }
  }
  mock_resource "aws_autoscaling_group" {
    defaults = { arn = "arn:aws:autoscaling:eu-west-1:123456789012:autoScalingGroup:11111111-2222-3333-4444-555555555555:autoScalingGroupName/shop" }
  }
  mock_resource "aws_autoscaling_policy" {
    defaults = { arn = "arn:aws:autoscaling:eu-west-1:123456789012:scalingPolicy:1:autoScalingGroupName/shop:policyName/shop-wake" }
  }
}

variables {
  name    = "shop"
  app     = "shop.tasks:app"
  package = { s3_bucket = "releases", s3_key = "shop/1.zip", sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" }
  queues = [
    { name = "fast", sqs_name = "prod-fast", arn = "arn:aws:sqs:eu-west-1:123456789012:prod-fast", fifo = false },
    { name = "slow", sqs_name = "prod-slow", arn = "arn:aws:sqs:eu-west-1:123456789012:prod-slow", fifo = false },
  ]
  concurrency = 4
  arguments   = ["--max-tasks-per-child", "1000"]
  environment = { CLOUDQ_BROKER_URL = "sqs://?region=eu-west-1" }
  policies = [
    "{\"Version\":\"2012-10-17\",\"Statement\":[{\"Effect\":\"Allow\",\"Action\":[\"sqs:ReceiveMessage\"],\"Resource\":[\"arn:aws:sqs:eu-west-1:123456789012:prod-fast\"]}]}",
  ]
  vpc_id     = "vpc-1"
  subnet_ids = ["subnet-1", "subnet-2"]
}

run "an_instance_runs_the_worker_as_a_hardened_unit" {
  assert {
    condition     = output.command == "/usr/bin/python3.13 -m cloudq worker -A shop.tasks:app --queue fast,slow --pool prefork --concurrency 4 --shutdown-timeout 110 --max-tasks-per-child 1000"
    error_message = output.command
  }
  assert {
    condition = alltrue([for each in [
      "\nExecStart=${output.command}\n", "\nCLOUDQ_BROKER_URL='sqs://?region=eu-west-1'\n", "\nTimeoutStopSec=130\n", "\nKillMode=mixed\n",
      "\nRestart=always\n", "\nProtectSystem=strict\n", "\nNoNewPrivileges=yes\n", "\nOOMPolicy=continue\n", "\nType=notify\nNotifyAccess=main\nWatchdogSec=180\n",
      "--bucket 'releases' --key 'shop/1.zip' /opt", "sha256sum --check", "--lifecycle-hook-name 'cloudq-drain'", "\nCLOUDQ_WORKER_LIFECYCLE_HOOK='shop:cloudq-drain'\n",
    ] : strcontains(output.user_data, each)])
    error_message = output.user_data
  }
  assert {
    condition     = base64decode(aws_launch_template.this.user_data) == output.user_data
    error_message = "the template starts what the output shows"
  }
}

run "metadata_needs_a_session_and_nothing_comes_in" {
  assert {
    condition     = aws_launch_template.this.metadata_options[0].http_tokens == "required" && aws_launch_template.this.metadata_options[0].http_put_response_hop_limit == 1
    error_message = "IMDSv2"
  }
  assert {
    condition     = [for each in aws_vpc_security_group_egress_rule.https : each.to_port] == [443]
    error_message = "HTTPS out, nothing in"
  }
  assert {
    condition     = length(aws_iam_role_policy_attachment.session_manager) == 1
    error_message = "SSM instead of SSH"
  }
}

run "the_role_may_do_what_it_needs_and_no_more" {
  assert {
    condition = jsondecode(aws_iam_role_policy.this.policy).Statement == [
      { Effect = "Allow", Action = ["logs:CreateLogStream", "logs:PutLogEvents"], Resource = ["arn:aws:logs:eu-west-1:123456789012:log-group:/cloudq/worker/shop:*"] },
      { Effect = "Allow", Action = ["s3:GetObject"], Resource = ["arn:aws:s3:::releases/shop/1.zip"] },
      { Effect = "Allow", Action = ["autoscaling:CompleteLifecycleAction", "autoscaling:RecordLifecycleActionHeartbeat"], Resource = [aws_autoscaling_group.this.arn] },
      { Effect = "Allow", Action = ["sqs:ReceiveMessage"], Resource = ["arn:aws:sqs:eu-west-1:123456789012:prod-fast"] },
    ]
    error_message = aws_iam_role_policy.this.policy
  }
}

run "instances_drain_before_they_go_and_follow_the_backlog" {
  assert {
    condition     = one(aws_autoscaling_group.this.initial_lifecycle_hook).heartbeat_timeout == 170
    error_message = "the hook outlasts draining"
  }
  assert {
    condition     = one([for each in aws_autoscaling_policy.backlog.target_tracking_configuration[0].customized_metric_specification[0].metrics : each.expression if each.return_data]) == "(q0 + q1) / IF(FILL(instances, 0) > 0, FILL(instances, 0), 1)"
    error_message = "backlog per instance over both queues"
  }
  assert {
    condition     = length(aws_autoscaling_policy.wake) == 0
    error_message = "a group that never sleeps need not be woken"
  }
}

run "the_oldest_ones_age_adds_instances_too" {
  variables {
    oldest_seconds = 300
  }
  assert {
    condition     = one([for each in aws_autoscaling_policy.backlog.target_tracking_configuration[0].customized_metric_specification[0].metrics : each.expression if each.return_data]) == "MAX([(q0 + q1) / IF(FILL(instances, 0) > 0, FILL(instances, 0), 1), IF(FILL(q0, 0) > 0, FILL(a0, 0), 0) * 100 / 300, IF(FILL(q1, 0) > 0, FILL(a1, 0), 0) * 100 / 300])"
    error_message = "backlog per instance, or the ages"
  }
  assert {
    condition     = { for each in aws_autoscaling_policy.backlog.target_tracking_configuration[0].customized_metric_specification[0].metrics : each.id => one(one(one(each.metric_stat).metric).dimensions).value if startswith(each.id, "a") } == { a0 = "prod-fast", a1 = "prod-slow" }
    error_message = "of both queues"
  }
}

run "ages_of_many_queues_are_too_many_metrics" {
  command = plan
  variables {
    oldest_seconds = 300
    queues         = [for index in range(5) : { name = "q${index}", arn = "arn:aws:sqs:eu-west-1:123456789012:q${index}", fifo = false, sqs_name = "q${index}" }]
  }
  expect_failures = [var.oldest_seconds]
}

run "a_group_may_sleep_and_a_worker_need_not_report" {
  variables {
    capacity         = { min = 0, max = 4, on_demand_base = 1, on_demand_percentage = 25 }
    watchdog_seconds = 0
  }
  assert {
    condition     = aws_cloudwatch_metric_alarm.wake[0].alarm_actions == toset([aws_autoscaling_policy.wake[0].arn])
    error_message = "waiting tasks wake it"
  }
  assert {
    condition     = strcontains(output.user_data, "\nType=exec\n") && !strcontains(output.user_data, "WatchdogSec")
    error_message = output.user_data
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
    app                  = "shop"
    package              = { s3_bucket = "releases", s3_key = "a b'c", sha256 = "x" }
    python               = "python2"
    queues               = []
    pool                 = "gevent"
    concurrency          = 0
    arguments            = ["; rm -rf /"]
    environment          = { A = "a\nb" }
    capacity             = { min = 2, max = 1 }
    drain_seconds        = 7001
    watchdog_seconds     = 5
    memory_max           = "lots"
    backlog_per_instance = 0
    subnet_ids           = []
    log_retention_days   = 2
  }
  expect_failures = [
    var.app, var.package, var.python, var.queues, var.pool, var.concurrency, var.arguments, var.environment, var.capacity,
    var.drain_seconds, var.watchdog_seconds, var.memory_max, var.backlog_per_instance, var.subnet_ids, var.log_retention_days,
  ]
}
