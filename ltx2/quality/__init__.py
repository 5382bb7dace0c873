"""Measuring how well the segments of a film join."""
