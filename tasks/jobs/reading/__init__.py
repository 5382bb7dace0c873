"""What is read of job records: statuses, specs, queues, and why a job waits."""
