"""The continuation state: types, validation, wire encoding."""
