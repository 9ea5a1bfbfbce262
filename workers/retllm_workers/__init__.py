"""The Celery application and its thin task modules."""
