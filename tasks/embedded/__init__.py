"""`longtake render`: a private Redis and worker for one render."""
