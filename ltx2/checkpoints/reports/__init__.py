"""What `longtake model check` says of a model."""
