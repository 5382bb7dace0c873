"""What runs in a worker: the tasks for segments, clips and films, and what they need."""
