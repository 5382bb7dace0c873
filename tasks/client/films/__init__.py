"""What is written about a film: its file, its clips, its report."""
