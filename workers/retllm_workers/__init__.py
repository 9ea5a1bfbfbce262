"""Celery application and one thin task module per queue."""
