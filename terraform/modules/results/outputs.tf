# Policies are outputs of the module that owns the resource: `cloudq iam ROLE` prints the same statements.
locals {
  bucket_arn = try("arn:${local.partition}:s3:::${var.bucket.name}", null)
  objects    = try("${local.bucket_arn}/${var.bucket.prefix}/*", null)
  kms        = var.kms_key_arn == null ? [] : [{ Effect = "Allow", Action = ["kms:Decrypt", "kms:GenerateDataKey"], Resource = [var.kms_key_arn] }]
  kms_read   = var.kms_key_arn == null ? [] : [{ Effect = "Allow", Action = ["kms:Decrypt"], Resource = [var.kms_key_arn] }]
  # The API neither looks for keys nor removes anything large.
  users = { for role, all in { user = true, api = false } : role => concat(
    [{
      Effect = "Allow"
      Action = concat(
        ["dynamodb:BatchGetItem", "dynamodb:DeleteItem", "dynamodb:GetItem"],
        all && var.group_commit ? ["dynamodb:PartiQLInsert"] : [],
        ["dynamodb:PutItem"],
        all ? ["dynamodb:Query"] : [],
      )
      Resource = [aws_dynamodb_table.this.arn]
    }],
    local.kms,
    var.bucket == null ? [] : [
      { Effect = "Allow", Action = concat(all ? ["s3:DeleteObject"] : [], ["s3:GetObject", "s3:PutObject"]), Resource = [local.objects] },
      { Effect = "Allow", Action = ["s3:ListBucket"], Resource = [local.bucket_arn] },
    ],
  ) }
  # Syncing schedules reads one document.
  readers = { for role, all in { dashboard = true, sync = false } : role => concat(
    [{
      Effect   = "Allow"
      Action   = all ? ["dynamodb:BatchGetItem", "dynamodb:GetItem", "dynamodb:Query"] : ["dynamodb:GetItem"]
      Resource = [aws_dynamodb_table.this.arn]
    }],
    local.kms_read,
    var.bucket == null ? [] : [
      { Effect = "Allow", Action = ["s3:GetObject"], Resource = [local.objects] },
      { Effect = "Allow", Action = ["s3:ListBucket"], Resource = [local.bucket_arn] },
    ],
  ) }
}

output "policies" {
  description = "IAM policy documents (JSON) on the table and the bucket, by role: publisher, worker, lambda, dashboard, operator, api, sync."
  value = { for role, statements in {
    publisher = local.users.user # groups, revocations and forget() are writes
    worker    = local.users.user
    lambda    = local.users.user
    operator  = local.users.user # what is paused, revoked, scheduled
    dashboard = local.readers.dashboard
    api       = local.users.api
    sync      = local.readers.sync # periodic tasks that were changed at run time
  } : role => jsonencode({ Version = "2012-10-17", Statement = statements }) }
}

output "environment" {
  description = "CLOUDQ_* variables of an app that keeps its results here."
  value = merge({
    CLOUDQ_RESULT_BACKEND = join("", [
      "dynamodb://${var.table_name}?region=${local.region}",
      var.group_commit ? "&group_commit=true" : "",
      var.bucket == null ? "" : "&large=${urlencode("s3://${try(var.bucket.name, "")}/${try(var.bucket.prefix, "")}?region=${local.region}")}",
    ])
    }, var.bucket == null ? {} : {
    CLOUDQ_BROKER_LARGE_MESSAGES = "s3://${try(var.bucket.name, "")}/${try(var.bucket.prefix, "")}?region=${local.region}"
  })
  # The bucket's name is a plain variable: without this an app could be configured before there is one.
  depends_on = [aws_s3_bucket.this]
}

output "table_name" {
  description = "The table's name."
  value       = aws_dynamodb_table.this.name
}

output "table_arn" {
  description = "The table's ARN."
  value       = aws_dynamodb_table.this.arn
}

output "bucket_name" {
  description = "The bucket's name, or null."
  value       = try(aws_s3_bucket.this["this"].id, null)
}

output "bucket_arn" {
  description = "The bucket's ARN, or null."
  value       = try(aws_s3_bucket.this["this"].arn, null)
}
