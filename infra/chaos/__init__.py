"""Breaks a running system on purpose, and counts from a record of its own what became of what that had accepted."""
