"""Events of jobs for those who wait for them: streams and webhooks."""
