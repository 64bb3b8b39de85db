# `cloudq worker` on EC2: launch template, Auto Scaling group on spot and on demand, scaling on backlog, role and logs.

locals {
  role_parts = split(":", aws_iam_role.this.arn)
  partition  = local.role_parts[1]
  region     = split(":", aws_cloudwatch_log_group.this.arn)[3]
  hook       = "cloudq-drain"
  tags       = merge({ "cloudq:worker" = var.name }, var.tags)
  object     = "arn:${local.partition}:s3:::${var.package.s3_bucket}/${var.package.s3_key}"
  statements = flatten([for each in var.policies : jsondecode(each).Statement])

  # The unit's ExecStart. The zip holds cloudq itself, so Python needs nothing but its place.
  command = join(" ", concat(
    ["/usr/bin/${var.python}", "-m", "cloudq", "worker", "-A", var.app, "--queue", join(",", var.queues[*].name), "--pool", var.pool],
    var.concurrency == null ? [] : ["--concurrency", tostring(var.concurrency)],
    ["--shutdown-timeout", tostring(var.drain_seconds)],
    var.arguments,
  ))
  environment = merge({
    AWS_REGION       = local.region
    PYTHONUNBUFFERED = "1"
    }, var.environment, {
    CLOUDQ_ENV                   = "production"
    CLOUDQ_WORKER_LIFECYCLE_HOOK = "${var.name}:${local.hook}" # named, so that nobody has to be allowed to look for it
    PYTHONPATH                   = "/opt/cloudq/app"
  })

  user_data = templatefile("${path.module}/templates/user_data.sh.tftpl", {
    name        = var.name
    python      = var.python
    region      = local.region
    bucket      = var.package.s3_bucket
    key         = var.package.s3_key
    version     = var.package.s3_object_version == null ? "" : var.package.s3_object_version
    sha256      = var.package.sha256 == null ? "" : var.package.sha256
    environment = local.environment
    command     = local.command
    watchdog    = var.watchdog_seconds
    drain       = var.drain_seconds
    memory_max  = var.memory_max
    hook        = local.hook
    agent = jsonencode({
      agent = { region = local.region }
      logs = { logs_collected = { files = { collect_list = [{
        file_path       = "/var/log/cloudq/worker.log"
        log_group_name  = aws_cloudwatch_log_group.this.name
        log_stream_name = "{instance_id}"
      }] } } }
    })
  })
}

resource "aws_cloudwatch_log_group" "this" {
  #checkov:skip=CKV_AWS_338:Retention is the variable log_retention_days; a year of task logs is a price that nobody should pay by default.
  name              = "/cloudq/worker/${var.name}"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.log_kms_key_arn
  tags              = local.tags
}

resource "aws_iam_role" "this" {
  name        = "${var.name}-worker"
  description = "cloudq workers ${var.name} on EC2."
  assume_role_policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Principal = { Service = "ec2.amazonaws.com" }, Action = "sts:AssumeRole" }]
  })
  tags = local.tags
}

resource "aws_iam_instance_profile" "this" {
  name = "${var.name}-worker"
  role = aws_iam_role.this.name
  tags = local.tags
}

# After the group, whose ARN it names: an instance retries until it is there.
resource "aws_iam_role_policy" "this" {
  name = "cloudq"
  role = aws_iam_role.this.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [
        { Effect = "Allow", Action = ["logs:CreateLogStream", "logs:PutLogEvents"], Resource = ["${aws_cloudwatch_log_group.this.arn}:*"] },
        { Effect = "Allow", Action = var.package.s3_object_version == null ? ["s3:GetObject"] : ["s3:GetObject", "s3:GetObjectVersion"], Resource = [local.object] },
        { Effect = "Allow", Action = ["autoscaling:CompleteLifecycleAction", "autoscaling:RecordLifecycleActionHeartbeat"], Resource = [aws_autoscaling_group.this.arn] },
      ],
      local.statements,
    )
  })
}

# Session Manager's messages have no ARNs, so AWS's own policy has to do.
resource "aws_iam_role_policy_attachment" "session_manager" {
  count = var.session_manager ? 1 : 0

  role       = aws_iam_role.this.name
  policy_arn = "arn:${local.partition}:iam::aws:policy/AmazonSSMManagedInstanceCore"
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
  description       = "AWS APIs and packages."
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  cidr_ipv4         = each.value
  tags              = local.tags
}

resource "aws_launch_template" "this" {
  name                   = var.name
  description            = "cloudq workers ${var.name}."
  image_id               = coalesce(var.image_id, "resolve:ssm:/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-${var.architecture}")
  instance_type          = var.instance_types[0]
  user_data              = base64encode(local.user_data)
  update_default_version = true
  ebs_optimized          = true

  iam_instance_profile {
    arn = aws_iam_instance_profile.this.arn
  }

  vpc_security_group_ids = concat([aws_security_group.this.id], var.security_group_ids)

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required" # IMDSv2
    http_put_response_hop_limit = 1
  }

  monitoring {
    enabled = true
  }

  block_device_mappings {
    device_name = "/dev/xvda"
    ebs {
      volume_size           = var.volume.size
      volume_type           = var.volume.type
      encrypted             = true
      kms_key_id            = var.volume.kms_key_arn
      delete_on_termination = true
    }
  }

  tag_specifications {
    resource_type = "instance"
    tags          = merge(local.tags, { Name = var.name })
  }

  tag_specifications {
    resource_type = "volume"
    tags          = merge(local.tags, { Name = var.name })
  }

  tags = local.tags
}

resource "aws_autoscaling_group" "this" {
  name                      = var.name
  min_size                  = var.capacity.min
  max_size                  = var.capacity.max
  vpc_zone_identifier       = var.subnet_ids
  capacity_rebalance        = true
  health_check_type         = "EC2"
  health_check_grace_period = 120
  enabled_metrics           = ["GroupInServiceInstances"]
  wait_for_capacity_timeout = "0"

  mixed_instances_policy {
    instances_distribution {
      on_demand_base_capacity                  = var.capacity.on_demand_base
      on_demand_percentage_above_base_capacity = var.capacity.on_demand_percentage
      spot_allocation_strategy                 = "price-capacity-optimized"
    }

    launch_template {
      launch_template_specification {
        launch_template_id = aws_launch_template.this.id
        version            = aws_launch_template.this.latest_version
      }

      dynamic "override" {
        for_each = var.instance_types
        content {
          instance_type = override.value
        }
      }
    }
  }

  # From the first instance on, so none is taken away without draining.
  initial_lifecycle_hook {
    name                 = local.hook
    lifecycle_transition = "autoscaling:EC2_INSTANCE_TERMINATING"
    default_result       = "CONTINUE"
    heartbeat_timeout    = max(30, var.drain_seconds + 60)
  }

  instance_refresh {
    strategy = "Rolling"
    preferences {
      min_healthy_percentage = 50
    }
  }

  dynamic "tag" {
    for_each = merge(local.tags, { Name = var.name })
    content {
      key                 = tag.key
      value               = tag.value
      propagate_at_launch = true
    }
  }

  lifecycle {
    ignore_changes = [desired_capacity] # scaling's own
  }
}

locals {
  # The waiting messages of all queues, and the instances there are.
  backlog   = join(" + ", [for index, queue in var.queues : "q${index}"])
  instances = "FILL(instances, 0)"
  each      = "(${local.backlog}) / IF(${local.instances} > 0, ${local.instances}, 1)"
  # A queue's age, in messages: where the oldest one is as old as is accepted, it counts as the backlog aimed at. What is
  # in hand already asks for nobody.
  ages   = [for index, queue in var.queues : "IF(FILL(q${index}, 0) > 0, FILL(a${index}, 0), 0) * ${var.backlog_per_instance} / ${coalesce(var.oldest_seconds, 1)}"]
  signal = var.oldest_seconds == null ? local.each : "MAX([${join(", ", concat([local.each], local.ages))}])"
}

resource "aws_autoscaling_policy" "backlog" {
  name                      = "${var.name}-backlog"
  autoscaling_group_name    = aws_autoscaling_group.this.name
  policy_type               = "TargetTrackingScaling"
  estimated_instance_warmup = 120

  target_tracking_configuration {
    target_value = var.backlog_per_instance

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
        id          = "instances"
        return_data = false
        metric_stat {
          stat = "Average"
          metric {
            namespace   = "AWS/AutoScaling"
            metric_name = "GroupInServiceInstances"
            dimensions {
              name  = "AutoScalingGroupName"
              value = aws_autoscaling_group.this.name
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
        label       = "Backlog per instance"
        expression  = local.signal
        return_data = true
      }
    }
  }
}

# A ratio cannot wake a group that has no instance: this does.
resource "aws_autoscaling_policy" "wake" {
  count = var.capacity.min == 0 ? 1 : 0

  name                   = "${var.name}-wake"
  autoscaling_group_name = aws_autoscaling_group.this.name
  policy_type            = "SimpleScaling"
  adjustment_type        = "ExactCapacity"
  scaling_adjustment     = 1
  cooldown               = 180
}

resource "aws_cloudwatch_metric_alarm" "wake" {
  count = var.capacity.min == 0 ? 1 : 0

  alarm_name          = "${var.name}-wake"
  alarm_description   = "Tasks wait for ${var.name}, which has no instance."
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  evaluation_periods  = 1
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_autoscaling_policy.wake[0].arn]
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
    id = "instances"
    metric {
      namespace   = "AWS/AutoScaling"
      metric_name = "GroupInServiceInstances"
      period      = 60
      stat        = "Average"
      dimensions  = { AutoScalingGroupName = aws_autoscaling_group.this.name }
    }
  }

  metric_query {
    id          = "asleep"
    label       = "Backlog without an instance"
    expression  = "IF(${local.instances} < 1, ${local.backlog}, 0)"
    return_data = true
  }
}
