"""What changes job records, each by one Lua script: lifetimes, edits, takes and pieces of jobs."""
