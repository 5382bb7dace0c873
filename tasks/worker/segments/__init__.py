"""The steps of rendering a segment: its length, its renderings, its progress, and the upload of its state."""
