"""Continuation state: types, validation and wire encoding."""
