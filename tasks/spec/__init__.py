"""Job specs: their schema, reading them, and the checks before anything is queued."""
