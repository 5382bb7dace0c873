"""Encoding prompts: the text encoder, and when and where it runs."""
