"""Jobs from outside: submit, follow, cancel, save."""
