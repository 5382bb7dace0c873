"""The HTTP server: jobs, events and films over HTTP. It reads and changes job records as the commands do."""
