"""Changes of a job's segments: how one differs from another spec, what may change in it, and forks."""
