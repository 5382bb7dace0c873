"""Several processes, one device each, that render one segment together."""
