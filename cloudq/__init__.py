"""cloudq: Celery's way of working on Amazon SQS and Lambda, with no broker to run."""
