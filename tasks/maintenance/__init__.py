"""Admission, the reconciler, the sweeper, and checks of the servers."""
