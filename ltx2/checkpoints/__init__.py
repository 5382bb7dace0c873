"""What a model consists of on disk or on the hub, and whether it is complete."""
