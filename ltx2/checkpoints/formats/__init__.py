"""File formats: their headers, and what is in them, without torch."""
