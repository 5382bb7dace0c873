"""Encoding and decoding of images, clips, films and sound."""
