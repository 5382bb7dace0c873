"""Job records in Redis."""
