# `cloudq worker` on Fargate: cluster, task definition, service, scaling on backlog, roles and logs.

locals {
  partition   = split(":", aws_iam_role.task.arn)[1]
  region      = split(":", aws_cloudwatch_log_group.this.arn)[3]
  cluster_arn = var.create_cluster ? aws_ecs_cluster.this[0].arn : var.cluster_arn
  # The name is what metrics go by: arn:...:cluster/NAME
  cluster    = var.create_cluster ? var.name : element(split("/", var.cluster_arn), 1)
  tags       = merge({ "cloudq:worker" = var.name }, var.tags)
  statements = flatten([for each in var.policies : jsondecode(each).Statement])

  command = concat(
    ["cloudq", "worker", "-A", var.app, "--queue", join(",", var.queues[*].name), "--pool", var.pool],
    var.concurrency == null ? [] : ["--concurrency", tostring(var.concurrency)],
    ["--shutdown-timeout", tostring(var.drain_seconds)],
    var.arguments,
  )
  environment = merge({ AWS_REGION = local.region, PYTHONUNBUFFERED = "1" }, var.environment, { CLOUDQ_ENV = "production" })
}

resource "aws_ecs_cluster" "this" {
  count = var.create_cluster ? 1 : 0

  name = var.name
  tags = local.tags

  setting {
    name  = "containerInsights"
    value = "enabled" # scaling counts the service's tasks
  }
}

resource "aws_ecs_cluster_capacity_providers" "this" {
  count = var.create_cluster ? 1 : 0

  cluster_name       = aws_ecs_cluster.this[0].name
  capacity_providers = ["FARGATE", "FARGATE_SPOT"]
}

resource "aws_cloudwatch_log_group" "this" {
  #checkov:skip=CKV_AWS_338:Retention is the variable log_retention_days; a year of task logs is a price that nobody should pay by default.
  name              = "/cloudq/worker/${var.name}"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.log_kms_key_arn
  tags              = local.tags
}

locals {
  ecs_trust = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Principal = { Service = "ecs-tasks.amazonaws.com" }, Action = "sts:AssumeRole" }]
  })
}

# What the tasks may do.
resource "aws_iam_role" "task" {
  name               = "${var.name}-task"
  description        = "cloudq workers ${var.name} on Fargate."
  assume_role_policy = local.ecs_trust
  tags               = local.tags
}

resource "aws_iam_role_policy" "task" {
  count = length(var.policies) > 0 ? 1 : 0

  name   = "cloudq"
  role   = aws_iam_role.task.id
  policy = jsonencode({ Version = "2012-10-17", Statement = local.statements })
}

# What ECS itself does to start them.
resource "aws_iam_role" "execution" {
  name               = "${var.name}-execution"
  description        = "Starts the cloudq workers ${var.name}."
  assume_role_policy = local.ecs_trust
  tags               = local.tags
}

resource "aws_iam_role_policy" "execution" {
  name = "cloudq"
  role = aws_iam_role.execution.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [{ Effect = "Allow", Action = ["logs:CreateLogStream", "logs:PutLogEvents"], Resource = ["${aws_cloudwatch_log_group.this.arn}:*"] }],
      var.image_repository_arn == null ? [] : [
        { Effect = "Allow", Action = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"], Resource = [var.image_repository_arn] },
      ],
      length(var.secrets) == 0 ? [] : [
        { Effect = "Allow", Action = ["secretsmanager:GetSecretValue"], Resource = values(var.secrets) },
      ],
    )
  })
}

# ecr:GetAuthorizationToken knows no resource; AWS's own read-only policy has it.
resource "aws_iam_role_policy_attachment" "pull" {
  count = strcontains(var.image, ".dkr.ecr.") ? 1 : 0

  role       = aws_iam_role.execution.name
  policy_arn = "arn:${local.partition}:iam::aws:policy/AmazonEC2ContainerRegistryPullOnly"
}

resource "aws_security_group" "this" {
  name_prefix = "${var.name}-worker-"
  description = "cloudq workers ${var.name}: nothing in, HTTPS out."
  vpc_id      = var.vpc_id
  tags        = merge(local.tags, { Name = "${var.name}-worker" })

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_egress_rule" "https" {
  for_each = toset(var.egress_cidrs)

  security_group_id = aws_security_group.this.id
  description       = "AWS APIs and the image."
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  cidr_ipv4         = each.value
  tags              = local.tags
}

resource "aws_ecs_task_definition" "this" {
  family                   = var.name
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = var.cpu
  memory                   = var.memory
  task_role_arn            = aws_iam_role.task.arn
  execution_role_arn       = aws_iam_role.execution.arn
  tags                     = local.tags

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = var.architecture
  }

  # Tasks write to /tmp; everything else is read-only.
  volume {
    name = "tmp"
  }

  container_definitions = jsonencode([{
    name                   = "worker"
    image                  = var.image
    essential              = true
    command                = local.command
    readonlyRootFilesystem = true
    linuxParameters        = { initProcessEnabled = true }
    stopTimeout            = min(120, var.drain_seconds + 10)
    mountPoints            = [{ sourceVolume = "tmp", containerPath = "/tmp", readOnly = false }]
    environment            = [for key in sort(keys(local.environment)) : { name = key, value = local.environment[key] }]
    secrets                = [for key in sort(keys(var.secrets)) : { name = key, valueFrom = var.secrets[key] }]
    logConfiguration = {
      logDriver = "awslogs"
      options = {
        "awslogs-group"         = aws_cloudwatch_log_group.this.name
        "awslogs-region"        = local.region
        "awslogs-stream-prefix" = "worker"
      }
    }
  }])
}

resource "aws_ecs_service" "this" {
  name                               = var.name
  cluster                            = local.cluster_arn
  task_definition                    = aws_ecs_task_definition.this.arn
  desired_count                      = var.capacity.min
  platform_version                   = "LATEST"
  enable_ecs_managed_tags            = true
  propagate_tags                     = "SERVICE"
  deployment_minimum_healthy_percent = 50
  deployment_maximum_percent         = 200
  tags                               = local.tags

  capacity_provider_strategy {
    capacity_provider = "FARGATE"
    weight            = 100 - var.capacity.spot_percentage
  }

  capacity_provider_strategy {
    capacity_provider = "FARGATE_SPOT"
    weight            = var.capacity.spot_percentage
  }

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  network_configuration {
    subnets          = var.subnet_ids
    security_groups  = concat([aws_security_group.this.id], var.security_group_ids)
    assign_public_ip = var.assign_public_ip
  }

  lifecycle {
    ignore_changes = [desired_count] # scaling's own
  }

  depends_on = [aws_iam_role_policy.execution, aws_iam_role_policy.task, aws_ecs_cluster_capacity_providers.this]
}

resource "aws_appautoscaling_target" "this" {
  service_namespace  = "ecs"
  resource_id        = "service/${local.cluster}/${aws_ecs_service.this.name}"
  scalable_dimension = "ecs:service:DesiredCount"
  min_capacity       = var.capacity.min
  max_capacity       = var.capacity.max
  tags               = local.tags
}

locals {
  backlog = join(" + ", [for index, queue in var.queues : "q${index}"])
  running = "FILL(running, 0)"
  each    = "(${local.backlog}) / IF(${local.running} > 0, ${local.running}, 1)"
  # A queue's age, in messages: where the oldest one is as old as is accepted, it counts as the backlog aimed at. What is
  # in hand already asks for nobody.
  ages   = [for index, queue in var.queues : "IF(FILL(q${index}, 0) > 0, FILL(a${index}, 0), 0) * ${var.backlog_per_task} / ${coalesce(var.oldest_seconds, 1)}"]
  signal = var.oldest_seconds == null ? local.each : "MAX([${join(", ", concat([local.each], local.ages))}])"
}

resource "aws_appautoscaling_policy" "backlog" {
  name               = "${var.name}-backlog"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = aws_appautoscaling_target.this.service_namespace
  resource_id        = aws_appautoscaling_target.this.resource_id
  scalable_dimension = aws_appautoscaling_target.this.scalable_dimension

  target_tracking_scaling_policy_configuration {
    target_value       = var.backlog_per_task
    scale_in_cooldown  = 120
    scale_out_cooldown = 30

    customized_metric_specification {
      dynamic "metrics" {
        for_each = { for index, queue in var.queues : "q${index}" => queue.sqs_name }
        content {
          id          = metrics.key
          return_data = false
          metric_stat {
            stat = "Maximum"
            metric {
              namespace   = "AWS/SQS"
              metric_name = "ApproximateNumberOfMessagesVisible"
              dimensions {
                name  = "QueueName"
                value = metrics.value
              }
            }
          }
        }
      }

      metrics {
        id          = "running"
        return_data = false
        metric_stat {
          stat = "Average"
          metric {
            namespace   = "ECS/ContainerInsights"
            metric_name = "RunningTaskCount"
            dimensions {
              name  = "ClusterName"
              value = local.cluster
            }
            dimensions {
              name  = "ServiceName"
              value = var.name
            }
          }
        }
      }

      dynamic "metrics" {
        for_each = var.oldest_seconds == null ? {} : { for index, queue in var.queues : "a${index}" => queue.sqs_name }
        content {
          id          = metrics.key
          return_data = false
          metric_stat {
            stat = "Maximum"
            metric {
              namespace   = "AWS/SQS"
              metric_name = "ApproximateAgeOfOldestMessage"
              dimensions {
                name  = "QueueName"
                value = metrics.value
              }
            }
          }
        }
      }

      metrics {
        id          = "each"
        label       = "Backlog per container"
        expression  = local.signal
        return_data = true
      }
    }
  }
}

# A ratio cannot wake a service that has no container: this does.
resource "aws_appautoscaling_policy" "wake" {
  count = var.capacity.min == 0 ? 1 : 0

  name               = "${var.name}-wake"
  policy_type        = "StepScaling"
  service_namespace  = aws_appautoscaling_target.this.service_namespace
  resource_id        = aws_appautoscaling_target.this.resource_id
  scalable_dimension = aws_appautoscaling_target.this.scalable_dimension

  step_scaling_policy_configuration {
    adjustment_type = "ExactCapacity"
    cooldown        = 180

    step_adjustment {
      metric_interval_lower_bound = 0
      scaling_adjustment          = 1
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "wake" {
  count = var.capacity.min == 0 ? 1 : 0

  alarm_name          = "${var.name}-wake"
  alarm_description   = "Tasks wait for ${var.name}, which has no container."
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  evaluation_periods  = 1
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_appautoscaling_policy.wake[0].arn]
  tags                = local.tags

  dynamic "metric_query" {
    for_each = { for index, queue in var.queues : "q${index}" => queue.sqs_name }
    content {
      id = metric_query.key
      metric {
        namespace   = "AWS/SQS"
        metric_name = "ApproximateNumberOfMessagesVisible"
        period      = 60
        stat        = "Maximum"
        dimensions  = { QueueName = metric_query.value }
      }
    }
  }

  metric_query {
    id = "running"
    metric {
      namespace   = "ECS/ContainerInsights"
      metric_name = "RunningTaskCount"
      period      = 60
      stat        = "Average"
      dimensions  = { ClusterName = local.cluster, ServiceName = var.name }
    }
  }

  metric_query {
    id          = "asleep"
    label       = "Backlog without a container"
    expression  = "IF(${local.running} < 1, ${local.backlog}, 0)"
    return_data = true
  }
}
