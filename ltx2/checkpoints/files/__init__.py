"""Models in files: what a file is, which files are one model, and their configs and names."""
