"""cloudq beside bare loops, Celery, Dramatiq and taskiq, against one fast local server, in one run."""
