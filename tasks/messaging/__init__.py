"""Celery messages: queues, schema, publishing."""
