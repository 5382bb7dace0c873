"""What a user asks for: job specs, checked before anything is queued."""
