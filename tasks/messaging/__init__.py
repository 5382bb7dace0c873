"""Celery messages: the application, their schema, filtering and publishing."""
