"""What people read about a job in a terminal: its plan, its progress, and who works on it."""
