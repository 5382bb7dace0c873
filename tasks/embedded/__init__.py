"""A whole deployment on one machine for one render."""
