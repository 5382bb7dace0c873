"""Job specs: schema, reading, and the checks before anything is queued."""
