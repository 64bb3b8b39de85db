# Results in Google Cloud Storage: a private bucket that empties itself, and an identity that may use it and nothing else.

resource "google_storage_bucket" "this" {
  #checkov:skip=CKV_GCP_62:A log entry for each read of each result costs more than the reads; Cloud Audit Logs can be switched on for the project.
  #checkov:skip=CKV_GCP_78:Versioning is the variable versioning: results are written once and expire.
  name                        = var.bucket_name
  project                     = var.project
  location                    = var.location
  storage_class               = "STANDARD"
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = var.force_destroy
  labels                      = var.labels

  versioning {
    enabled = var.versioning
  }

  # Deleted objects are not kept for a week at their price: results are written once and expire.
  soft_delete_policy {
    retention_duration_seconds = 0
  }

  lifecycle_rule {
    condition {
      age            = var.expire_after_days
      matches_prefix = ["${var.prefix}/"]
    }
    action {
      type = "Delete"
    }
  }

  lifecycle_rule {
    condition {
      days_since_noncurrent_time = 7
    }
    action {
      type = "Delete"
    }
  }

  dynamic "encryption" {
    for_each = var.kms_key_name[*]
    content {
      default_kms_key_name = encryption.value
    }
  }
}

resource "google_service_account" "this" {
  account_id   = var.service_account_id
  project      = var.project
  display_name = "cloudq results"
  description  = "Reads and writes task results in ${var.bucket_name}."
}

# Objects of this bucket only; objectUser can read, write, delete and list, but set no policies.
resource "google_storage_bucket_iam_member" "objects" {
  for_each = toset(concat(["serviceAccount:${var.service_account_id}@${var.project}.iam.gserviceaccount.com"], var.members))

  bucket = google_storage_bucket.this.name
  role   = "roles/storage.objectUser"
  member = each.value

  depends_on = [google_service_account.this]
}

resource "google_service_account_iam_member" "workload_identity" {
  for_each = toset(var.workload_identity_members)

  service_account_id = google_service_account.this.name
  role               = "roles/iam.workloadIdentityUser"
  member             = each.value
}
