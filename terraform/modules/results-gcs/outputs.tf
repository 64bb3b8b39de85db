output "environment" {
  description = "CLOUDQ_* variables of an app that keeps its results here."
  value       = { CLOUDQ_RESULT_BACKEND = "gs://${google_storage_bucket.this.name}/${var.prefix}" }
}

output "bucket_name" {
  description = "The bucket's name."
  value       = google_storage_bucket.this.name
}

output "service_account_email" {
  description = "The service account of workers and publishers."
  value       = google_service_account.this.email
}
