"""What is answered to each request about jobs, takes, edits, live films and videos."""
