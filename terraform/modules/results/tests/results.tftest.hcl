mock_provider "aws" {
  mock_resource "aws_dynamodb_table" {
    defaults = { arn = "arn:aws:dynamodb:eu-west-1:123456789012:table/cloudq-results" }
  }
  mock_resource "aws_s3_bucket" {
    defaults = { arn = "arn:aws:s3:::shop-results" }
  }
}

run "a_table_alone_has_ttl_backups_and_encryption" {
  assert {
    condition     = one(aws_dynamodb_table.this.ttl).enabled && one(aws_dynamodb_table.this.ttl).attribute_name == "ttl"
    error_message = "expired records are cleared away"
  }
  assert {
    condition     = aws_dynamodb_table.this.billing_mode == "PAY_PER_REQUEST" && aws_dynamodb_table.this.hash_key == "pk" && aws_dynamodb_table.this.range_key == "sk"
    error_message = "cloudq's key, billed on demand"
  }
  assert {
    condition     = one(aws_dynamodb_table.this.point_in_time_recovery).enabled && one(aws_dynamodb_table.this.server_side_encryption).enabled && aws_dynamodb_table.this.deletion_protection_enabled
    error_message = "backups, encryption and deletion protection are on"
  }
  assert {
    condition     = output.environment == { CLOUDQ_RESULT_BACKEND = "dynamodb://cloudq-results?region=eu-west-1" }
    error_message = "environment: ${jsonencode(output.environment)}"
  }
  assert {
    condition     = { for role, policy in output.policies : role => jsondecode(policy) } == jsondecode(file("${path.module}/tests/expected/table.json"))
    error_message = "policies differ from tests/expected/table.json: ${jsonencode(output.policies)}"
  }
  assert {
    condition     = output.bucket_name == null
    error_message = "no bucket was wanted"
  }
}

run "a_bucket_is_private_encrypted_and_expires" {
  variables {
    bucket = { name = "shop-results" }
  }
  assert {
    condition = alltrue([
      aws_s3_bucket_public_access_block.this["this"].block_public_acls,
      aws_s3_bucket_public_access_block.this["this"].block_public_policy,
      aws_s3_bucket_public_access_block.this["this"].ignore_public_acls,
      aws_s3_bucket_public_access_block.this["this"].restrict_public_buckets,
    ])
    error_message = "all public access is blocked"
  }
  assert {
    condition     = jsondecode(aws_s3_bucket_policy.tls_only["this"].policy).Statement[0].Effect == "Deny"
    error_message = "plain HTTP is refused"
  }
  assert {
    condition     = aws_s3_bucket_lifecycle_configuration.this["this"].rule[0].expiration[0].days == 30
    error_message = "objects expire"
  }
  assert {
    condition     = length(aws_s3_bucket_versioning.this) == 0
    error_message = "versioning is by choice"
  }
  assert {
    condition     = output.environment.CLOUDQ_RESULT_BACKEND == "dynamodb://cloudq-results?region=eu-west-1&large=s3%3A%2F%2Fshop-results%2Fcloudq%3Fregion%3Deu-west-1"
    error_message = "environment: ${jsonencode(output.environment)}"
  }
  assert {
    condition     = { for role, policy in output.policies : role => jsondecode(policy) } == jsondecode(file("${path.module}/tests/expected/bucket.json"))
    error_message = "policies differ from tests/expected/bucket.json: ${jsonencode(output.policies)}"
  }
}

run "results_are_written_together_by_choice" {
  variables {
    group_commit = true
  }
  assert {
    condition     = output.environment == { CLOUDQ_RESULT_BACKEND = "dynamodb://cloudq-results?region=eu-west-1&group_commit=true" }
    error_message = "environment: ${jsonencode(output.environment)}"
  }
  assert {
    condition     = { for role, policy in output.policies : role => jsondecode(policy) } == jsondecode(file("${path.module}/tests/expected/together.json"))
    error_message = "policies differ from tests/expected/together.json: ${jsonencode(output.policies)}"
  }
}

run "versions_logs_and_a_key_by_choice" {
  variables {
    bucket      = { name = "shop-results", versioning = true, access_logs = { bucket = "shop-logs" } }
    kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/11111111-2222-3333-4444-555555555555"
  }
  assert {
    condition     = aws_s3_bucket_versioning.this["this"].versioning_configuration[0].status == "Enabled" && aws_s3_bucket_logging.this["this"].target_bucket == "shop-logs"
    error_message = "versioning and access logs were wanted"
  }
  assert {
    condition     = { for role, policy in output.policies : role => jsondecode(policy) } == jsondecode(file("${path.module}/tests/expected/kms.json"))
    error_message = "policies differ from tests/expected/kms.json: ${jsonencode(output.policies)}"
  }
}

run "impossible_values_are_refused" {
  command = plan
  variables {
    table_name  = "x"
    kms_key_arn = "alias/cloudq"
    bucket      = { name = "Shop_Results", prefix = "/cloudq/", expire_after_days = 0 }
  }
  expect_failures = [var.table_name, var.kms_key_arn, var.bucket]
}
